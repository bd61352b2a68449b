package metrics

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"guestforge.dev/agent/internal/procfs"
)

func TestNamesAreKatas(t *testing.T) {
	for name, want := range map[string]string{
		"MemAvailable": "mem_available", "Active(anon)": "active_anon", "SReclaimable": "s_reclaimable",
		"SwapTotal": "swap_total", "Committed_AS": "committed_as", "DirectMap4k": "direct_map_4k", "DirectMap2M": "direct_map_2M",
		"AnonHugePages": "anon_hugepages", "HugePages_Free": "hugepages_free", "Hugepagesize": "hugepagesize",
		"Percpu": "per_cpu", "KReclaimable": "k_reclaimable", "NFS_Unstable": "nfs_unstable", "SUnreclaim": "s_unreclaim",
	} {
		if got := memoryItem(name); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

func TestWhatCanBeLeftBehindIsCounted(t *testing.T) {
	before := map[string]string{}
	for _, each := range held() {
		before[each.label] = each.value
	}
	for _, label := range []string{"mounts", "processes", "agent_files", "agent_goroutines"} {
		if before[label] == "" {
			t.Errorf("no %s", label)
		}
	}
	file, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	child, err := os.StartProcess("/proc/self/exe", []string{"test", "-test.run=^$"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	waiting, end := make(chan struct{}), make(chan struct{})
	go func() { close(waiting); <-end }()
	<-waiting
	if files() != number(t, before["agent_files"])+2 { // the child's descriptor as well
		t.Errorf("%d files, before %s", files(), before["agent_files"])
	}
	for _, each := range held() {
		if each.label == "agent_goroutines" && number(t, each.value) != number(t, before[each.label])+1 {
			t.Errorf("%s goroutines, before %s", each.value, before[each.label])
		}
	}
	close(end)
	if _, err := child.Wait(); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	value, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestMemoryIsInBytes(t *testing.T) {
	got := meminfo("MemTotal:  2 kB\nHugePages_Total: 3\njunk\nBad: x kB\n")
	if want := []figure{{"mem_total", "2048"}, {"hugepages_total", "3"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestFreePagesOfAllProcessorsAndZonesAreSummedUp(t *testing.T) {
	text := "Node 0, zone DMA32\n  pages free 7\n  pagesets\n    cpu: 0\n              count: 3160\n              high:  4691\n" +
		"    cpu: 1\n              count:    2\nNode 0, zone Movable\n              count: x\n"
	if got := percpuFree(text); got != 3162 {
		t.Error(got)
	}
}

func TestTablesAreReadAsTheKernelWritesThem(t *testing.T) {
	var out strings.Builder
	columns(&out, "d", "Disks.", "disk", diskItems, disks(" 254       0 vda 120 1 9000 30 4 5 64 7 0 40 37 0 0 0 0 2 1\n 7 0 loop0 1\n"))
	columns(&out, "n", "Nets.", "interface", netItems, interfaces([]procfs.Interface{
		{Name: "eth0", Received: procfs.Traffic{1, 2, 3, 4, 5, 6, 7, 8}, Sent: procfs.Traffic{9, 10, 11, 12, 13, 14, 15, 16}},
	}))
	columns(&out, "none", "Nothing.", "disk", diskItems, nil)
	for _, line := range []string{
		`d{disk="vda",item="reads"} 120`, `d{disk="vda",item="weighted_time_in_progress"} 37`, `d{disk="vda",item="time_flushing"} 1`,
		`d{disk="loop0",item="reads"} 1`, `n{interface="eth0",item="recv_multicast"} 8`, `n{interface="eth0",item="sent_bytes"} 9`,
		`n{interface="eth0",item="sent_compressed"} 16`,
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no %s in\n%s", line, out.String())
		}
	}
	if strings.Contains(out.String(), "none") || strings.Count(out.String(), "\n") != 4+17+1+16 {
		t.Error(out.String())
	}
}

func TestFiguresOfAProcess(t *testing.T) {
	for name, test := range map[string]struct{ got, want []figure }{
		"status": {
			status("Name:\tagent\nVmHWM:\t  100 kB\nRssAnon:\t 5 kB\nThreads:\t4\nvoluntary_ctxt_switches:\t9\n"),
			[]figure{{"vmhwm", "100"}, {"rssanon", "5"}, {"voluntary_ctxt_switches", "9"}},
		},
		"stat":   {stat("1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 70 30 5 6 20 0 9"), []figure{{"utime", "70"}, {"stime", "30"}, {"cutime", "5"}, {"cstime", "6"}}},
		"nostat": {stat("1 (agent"), nil},
		"io":     {ioStat("rchar: 4292\nwrite_bytes: 0\n"), []figure{{"rchar", "4292"}, {"write_bytes", "0"}}},
		"tasks":  {tasks("0.10 0.20 0.30 2/62 114\n"), []figure{{"cur", "2"}, {"max", "62"}}},
		"none":   {tasks("0.10\n"), nil},
	} {
		if !reflect.DeepEqual(test.got, test.want) {
			t.Errorf("%s: %v", name, test.got)
		}
	}
	if got := totalTime([]figure{{"utime", "70"}, {"stime", "31"}}); got != "1.01" {
		t.Error(got)
	}
}

func TestTimeOfProcessorsIsInMilliseconds(t *testing.T) {
	var out strings.Builder
	cpuTime(&out, "cpu  7 0 3 100\ncpu0 7 0 3 100\nintr 5\n")
	for _, line := range []string{`{cpu="total",item="user"} 70`, `{cpu="0",item="idle"} 1000`} {
		if !strings.Contains(out.String(), line) {
			t.Error(out.String())
		}
	}
}

func TestEveryFamilyIsThere(t *testing.T) {
	first, second := Collect(), Collect()
	for _, name := range strings.Fields(`kata_guest_load kata_guest_tasks kata_guest_cpu_time kata_guest_vm_stat kata_guest_netdev_stat
		kata_guest_diskstat kata_guest_meminfo kata_agent_scrape_count kata_agent_threads kata_agent_total_time kata_agent_total_vm
		kata_agent_total_rss kata_agent_proc_status kata_agent_io_stat kata_agent_proc_stat`) {
		if !strings.Contains(first, "\n# TYPE "+name+" ") && !strings.HasPrefix(first, "# HELP "+name+" ") {
			t.Errorf("no %s", name)
		}
	}
	if !strings.Contains(first, "kata_agent_scrape_count 1\n") || !strings.Contains(second, "kata_agent_scrape_count 2\n") {
		t.Error("scrapes are not counted")
	}
}
