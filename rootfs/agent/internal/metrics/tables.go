package metrics

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"guestforge.dev/agent/internal/procfs"
)

// The columns of /proc/diskstats behind a disk's name (Documentation/admin-guide/iostats.rst), and those of /proc/net/dev.
var (
	diskItems = strings.Fields(`reads merged sectors_read time_reading writes writes_merged sectors_written time_writing
		in_progress time_in_progress weighted_time_in_progress discards discards_merged sectors_discarded time_discarding
		flushes time_flushing`)
	netItems = strings.Fields(`recv_bytes recv_packets recv_errs recv_drop recv_fifo recv_frame recv_compressed recv_multicast
		sent_bytes sent_packets sent_errs sent_drop sent_fifo sent_colls sent_carrier sent_compressed`)
)

// row is a line of a table: what it is about, and the figures in their order.
type row struct {
	name   string
	values []string
}

// columns writes a table: each figure under the label of its row, and as the item of its column.
func columns(out *strings.Builder, name, help, label string, items []string, rows []row) {
	if len(rows) == 0 {
		return
	}
	header(out, name, help)
	for _, r := range rows {
		for i, value := range r.values[:min(len(r.values), len(items))] {
			fmt.Fprintf(out, "%s{%s=%q,item=%q} %s\n", name, label, r.name, items[i], value)
		}
	}
}

// disks reads lines such as "254 0 vda 120 ...".
func disks(text string) []row {
	var rows []row
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 3 {
			rows = append(rows, row{words[2], words[3:]})
		}
	}
	return rows
}

// interfaces has the kernel's columns of each interface, the loopback among them.
func interfaces(found []procfs.Interface) []row {
	var rows []row
	for _, each := range found {
		var values []string
		for _, value := range slices.Concat(each.Received[:], each.Sent[:]) {
			values = append(values, strconv.FormatUint(value, 10))
		}
		rows = append(rows, row{each.Name, values})
	}
	return rows
}

// tasks reads the fourth word of /proc/loadavg, such as "1/62".
func tasks(text string) []figure {
	words := strings.Fields(text)
	if len(words) < 4 {
		return nil
	}
	running, all, found := strings.Cut(words[3], "/")
	if !found {
		return nil
	}
	return []figure{{"cur", running}, {"max", all}}
}

// status reads amounts of memory, in KiB as the kernel has them, and switches of context from /proc/PID/status.
func status(text string) []figure {
	var figures []figure
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(line, ":")
		words := strings.Fields(value)
		memory := len(words) == 2 && words[1] == "kB"
		if found && len(words) > 0 && (memory || strings.HasSuffix(name, "_switches")) {
			figures = append(figures, figure{strings.ToLower(name), words[0]})
		}
	}
	return figures
}

// stat reads the four times of /proc/PID/stat.
func stat(text string) []figure {
	words := statWords(text)
	if len(words) < 15 {
		return nil
	}
	var figures []figure
	for i, name := range []string{"utime", "stime", "cutime", "cstime"} {
		figures = append(figures, figure{name, words[11+i]})
	}
	return figures
}

// statWords returns the words of /proc/PID/stat (proc_pid_stat(5)) behind the name, which may have blanks and brackets.
func statWords(text string) []string {
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
}

// totalTime returns the seconds of user and system time; nothing where they are not known.
func totalTime(times []figure) string {
	if len(times) < 2 {
		return ""
	}
	user, err1 := strconv.ParseUint(times[0].value, 10, 53)
	system, err2 := strconv.ParseUint(times[1].value, 10, 53)
	if err1 != nil || err2 != nil {
		return ""
	}
	return strconv.FormatFloat(float64(user+system)/hertz, 'f', 2, 64)
}

// ioStat reads lines such as "rchar: 4292".
func ioStat(text string) []figure {
	var figures []figure
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ": "); found {
			figures = append(figures, figure{name, value})
		}
	}
	return figures
}
