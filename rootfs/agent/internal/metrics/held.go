package metrics

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

const (
	kernelThread = 0x00200000 // PF_KTHREAD (include/linux/sched.h)
	flagsWord    = 6          // of statWords
)

// held counts what each container has and none may leave behind: mounts, cgroups and processes of the guest, files and
// goroutines of the agent. An item that can't be counted is left out.
func held() []figure {
	var figures []figure
	for _, each := range pairs(read("/sys/fs/cgroup/cgroup.stat")) {
		if each.label == "nr_descendants" {
			figures = append(figures, figure{"cgroups", each.value})
		}
	}
	for label, count := range map[string]int{
		"mounts": strings.Count(read("/proc/self/mountinfo"), "\n"), "processes": processes(),
		"agent_files": files(), "agent_goroutines": runtime.NumGoroutine(),
	} {
		if count > 0 {
			figures = append(figures, figure{label, strconv.Itoa(count)})
		}
	}
	return figures
}

// processes counts all processes but the kernel's, with those that have ended and that nobody has waited for.
func processes() (count int) {
	for _, name := range names("/proc") {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		words := statWords(read("/proc/" + name + "/stat"))
		if len(words) <= flagsWord {
			continue // it is gone by now
		}
		if flags, err := strconv.ParseUint(words[flagsWord], 10, 64); err == nil && flags&kernelThread == 0 {
			count++
		}
	}
	return count
}

// files counts the agent's open files, but for the directory that tells them.
func files() int { return max(0, len(names("/proc/self/fd"))-1) }

func names(path string) []string {
	directory, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer directory.Close()
	found, _ := directory.Readdirnames(-1)
	return found
}
