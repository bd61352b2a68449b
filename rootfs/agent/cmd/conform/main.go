// The conform program runs the cases of internal/conform in a directory of a guest, and says on standard output, a JSON
// object a line, what became of each; the last line is {"done": N}. It is in no image.
//
//	conform run DIR [MANY]    all cases; MANY files in the large directory, 1,000 by default
//	conform execute DIR RUNS  the case of programs that come and go, as often as said
//	conform child ACTION PATH what a case does as another process
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"guestforge.dev/agent/internal/conform"
)

const (
	defaultMany = 1000
	failedCode  = 1
	usageCode   = 2
)

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 3 && args[0] == "child":
		os.Exit(conform.Child(args[1], args[2]))
	case len(args) >= 2 && args[0] == "run":
		if err := run(args[1], args[2:]); err == nil {
			return
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
	case len(args) == 3 && args[0] == "execute":
		if err := execute(args[1], args[2]); err == nil {
			return
		} else {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(failedCode)
		}
	default:
		fmt.Fprintln(os.Stderr, "conform run DIR [MANY] | execute DIR RUNS")
	}
	os.Exit(usageCode)
}

func execute(dir, runs string) error {
	count, err := strconv.Atoi(runs)
	if err != nil {
		return err
	}
	return conform.Execute(dir, count)
}

func run(dir string, rest []string) error {
	many := defaultMany
	if len(rest) > 0 {
		var err error
		if many, err = strconv.Atoi(rest[0]); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	cases := conform.Cases(many)
	conform.Run(cases, dir, func(result conform.Result) { out.Encode(result) })
	return out.Encode(map[string]int{"done": len(cases)})
}
