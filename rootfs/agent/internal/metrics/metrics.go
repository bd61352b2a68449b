// Package metrics writes the figures of a guest and of the agent in Prometheus' text format, under the names and in the units
// that Kata's agent has for them: bytes for memory, but KiB in kata_agent_proc_status; milliseconds in kata_guest_cpu_time,
// seconds in kata_agent_total_time, and the kernel's clock ticks in kata_agent_proc_stat.
package metrics

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	"guestforge.dev/agent/internal/procfs"
)

const hertz = 100 // USER_HZ, the clock ticks of a second on every architecture that Go has

// scrapes counts calls of Collect.
var scrapes atomic.Uint64

// Collect returns all figures that this guest has; a file that its kernel lacks leaves its figures out.
func Collect() string {
	network, _ := procfs.Interfaces()
	var out strings.Builder
	gauge(&out, "kata_guest_meminfo", "Memory of the guest.", "item", meminfo(read("/proc/meminfo")))
	plain(&out, "guestforge_guest_percpu_free", "Free memory in the processors' own lists, not in mem_available.",
		inBytes(percpuFree(read("/proc/zoneinfo"))))
	gauge(&out, "kata_guest_load", "Load average of the guest.", "item", load(read("/proc/loadavg")))
	gauge(&out, "kata_guest_tasks", "Tasks of the guest that run, and all.", "item", tasks(read("/proc/loadavg")))
	gauge(&out, "kata_guest_vm_stat", "Virtual memory of the guest.", "item", pairs(read("/proc/vmstat")))
	cpuTime(&out, read("/proc/stat"))
	columns(&out, "kata_guest_diskstat", "Disks of the guest.", "disk", diskItems, disks(read("/proc/diskstats")))
	columns(&out, "kata_guest_netdev_stat", "Network interfaces of the guest.", "interface", netItems, interfaces(network))
	gauge(&out, "guestforge_guest_held", "What the guest has of what can be left behind.", "item", held())
	counter(&out, "kata_agent_scrape_count", "How often this was asked for.", scrapes.Add(1))
	gauge(&out, "kata_agent_proc_status", "The agent's process, memory in KiB.", "item", status(read("/proc/self/status")))
	gauge(&out, "kata_agent_proc_stat", "Time of the agent's process in clock ticks.", "item", stat(read("/proc/self/stat")))
	gauge(&out, "kata_agent_io_stat", "What the agent's process has read and written.", "item", ioStat(read("/proc/self/io")))
	plain(&out, "kata_agent_threads", "Threads of the agent.", procfs.Field(read("/proc/self/status"), "Threads"))
	plain(&out, "kata_agent_total_time", "Time of the agent in seconds.", totalTime(stat(read("/proc/self/stat"))))
	plain(&out, "kata_agent_total_vm", "Virtual memory of the agent.", pages(0))
	plain(&out, "kata_agent_total_rss", "Resident memory of the agent.", pages(1))
	return out.String()
}

// figure is a labelled value in its text form.
type figure struct{ label, value string }

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(text)
}

func header(out *strings.Builder, name, help string) { typed(out, name, help, "gauge") }

func typed(out *strings.Builder, name, help, kind string) {
	fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func counter(out *strings.Builder, name, help string, value uint64) {
	typed(out, name, help, "counter")
	fmt.Fprintf(out, "%s %d\n", name, value)
}

func gauge(out *strings.Builder, name, help, label string, figures []figure) {
	if len(figures) == 0 {
		return
	}
	header(out, name, help)
	for _, f := range figures {
		fmt.Fprintf(out, "%s{%s=%q} %s\n", name, label, f.label, f.value)
	}
}

func plain(out *strings.Builder, name, help, value string) {
	if value != "" {
		header(out, name, help)
		fmt.Fprintf(out, "%s %s\n", name, value)
	}
}

// meminfo reads lines such as "MemFree:  1024 kB" into mem_free and bytes.
func meminfo(text string) []figure {
	var figures []figure
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		value, err := strconv.ParseUint(words[1], 10, 54)
		if err != nil {
			continue
		}
		if len(words) == 3 && words[2] == "kB" {
			value *= 1024
		}
		figures = append(figures, figure{memoryItem(strings.TrimSuffix(words[0], ":")), strconv.FormatUint(value, 10)})
	}
	return figures
}

// memoryItem returns Kata's name of a line of /proc/meminfo, where it is not simply in lower case and with underscores.
func memoryItem(name string) string {
	switch size, direct := strings.CutPrefix(name, "DirectMap"); {
	case direct:
		return "direct_map_" + size
	case name == "Percpu":
		return "per_cpu"
	}
	return strings.ReplaceAll(snake(name), "huge_pages", "hugepages")
}

// snake turns MemAvailable into mem_available, Active(anon) into active_anon, SReclaimable into s_reclaimable.
func snake(name string) string {
	var out strings.Builder
	letters := []rune(strings.ReplaceAll(strings.ReplaceAll(name, "(", "_"), ")", ""))
	for i, c := range letters {
		if unicode.IsUpper(c) && i > 0 && letters[i-1] != '_' {
			within := unicode.IsUpper(letters[i-1]) && (i+1 == len(letters) || !unicode.IsLower(letters[i+1])) // of NFS
			if !within {
				out.WriteByte('_')
			}
		}
		out.WriteRune(unicode.ToLower(c))
	}
	return out.String()
}

// percpuFree sums up the pages of the per-processor free lists, the lines "count: N" of /proc/zoneinfo. The kernel counts
// them neither as MemFree nor as MemAvailable; a guest of 256 MiB has 12 MiB there once it has booted.
func percpuFree(text string) (pages uint64) {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == "count:" {
			value, _ := strconv.ParseUint(words[1], 10, 32)
			pages += value
		}
	}
	return pages
}

func load(text string) []figure {
	words := strings.Fields(text)
	if len(words) < 3 {
		return nil
	}
	return []figure{{"load1", words[0]}, {"load5", words[1]}, {"load15", words[2]}}
}

func pairs(text string) []figure {
	var figures []figure
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 {
			figures = append(figures, figure{words[0], words[1]})
		}
	}
	return figures
}

var cpuItems = []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"}

func cpuTime(out *strings.Builder, text string) {
	if text == "" {
		return
	}
	header(out, "kata_guest_cpu_time", "Time of the guest's processors.")
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[0], "cpu") {
			continue
		}
		name := words[0]
		if name == "cpu" {
			name = "total"
		}
		for i, value := range words[1:min(len(words), len(cpuItems)+1)] {
			ticks, _ := strconv.ParseUint(value, 10, 53)
			milliseconds := ticks * (1000 / hertz)
			fmt.Fprintf(out, "kata_guest_cpu_time{cpu=%q,item=%q} %d\n", strings.TrimPrefix(name, "cpu"), cpuItems[i], milliseconds)
		}
	}
}

// pages returns a column of /proc/self/statm in bytes.
func pages(column int) string {
	words := strings.Fields(read("/proc/self/statm"))
	if len(words) <= column {
		return ""
	}
	value, err := strconv.ParseUint(words[column], 10, 40)
	if err != nil {
		return ""
	}
	return inBytes(value)
}

func inBytes(pages uint64) string { return strconv.FormatUint(pages*uint64(os.Getpagesize()), 10) }
