// Package fault is errors with a status code of the interface (gRPC's), which stay readable when they are wrapped.
package fault

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// Error is an error that knows its code.
type Error struct {
	Code codes.Code
	text string
}

func (e *Error) Error() string { return e.text }

// Invalid reports a malformed request.
func Invalid(format string, args ...any) error { return New(codes.InvalidArgument, format, args...) }

// Unimplemented reports a feature that this agent does not support; what names it.
func Unimplemented(format string, args ...any) error {
	return New(codes.Unimplemented, format+": not served by this agent", args...)
}

// New returns an error with a code.
func New(code codes.Code, format string, args ...any) error {
	return &Error{code, fmt.Sprintf(format, args...)}
}
