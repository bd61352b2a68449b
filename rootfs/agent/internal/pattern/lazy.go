// Package pattern has regular expressions at no cost to who asks for none.
package pattern

import (
	"regexp"
	"sync"
)

// Lazy returns what compiles an expression when it is first called. Each process of a container is a start of this program
// (see shim), and few of them need any.
func Lazy(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
