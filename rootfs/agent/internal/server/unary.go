// Package server answers the interface's calls.
package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"runtime/debug"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/fault"
)

// message is what a pointer to a generated struct is.
type message[T any] interface {
	*T
	proto.Message
}

// unary makes a method of a function. A field of a request that is not served is refused before it.
func unary[Q, A any, PQ message[Q], PA message[A]](name string, f func(context.Context, PQ) (PA, error)) ttrpc.Method {
	return answering(name, func(ctx context.Context, request PQ) (PA, error) {
		if err := requests.Check(request); err != nil {
			return nil, err
		}
		return f(ctx, request)
	})
}

// answering makes a method of a function. A panic in it is an error to its caller alone.
func answering[Q, A any, PQ message[Q], PA message[A]](name string, f func(context.Context, PQ) (PA, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (answer any, err error) {
		defer func() {
			if cause := recover(); cause != nil {
				slog.Error("panic in a call", "method", name, "cause", cause, "stack", string(debug.Stack()))
				answer, err = nil, status.Errorf(codes.Internal, "panic in %s: %v", name, cause)
			}
		}()
		request := PQ(new(Q))
		if err := unmarshal(request); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s: %v", name, err)
		}
		response, err := f(ctx, request)
		if err != nil {
			slog.Warn("call failed", "method", name, "error", err)
			return nil, withCode(err)
		}
		slog.Debug("call", "method", name)
		return response, nil
	}
}

// The codes of errors that have none of their own, by what they are.
var errorCodes = []struct {
	is   error
	code codes.Code
}{
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{fs.ErrNotExist, codes.NotFound},
	{fs.ErrExist, codes.AlreadyExists},
	{fs.ErrPermission, codes.PermissionDenied},
	{unix.EINVAL, codes.InvalidArgument},
	{unix.ENOSPC, codes.ResourceExhausted},
}

// maxText bounds the words of an error: some repeat what the caller sent.
const maxText = 8 << 10

func withCode(err error) error {
	code, text := codes.Internal, err.Error()
	if own := (*fault.Error)(nil); errors.As(err, &own) {
		code = own.Code
	} else {
		for _, known := range errorCodes {
			if errors.Is(err, known.is) {
				code = known.code
				break
			}
		}
	}
	return status.Error(code, text[:min(len(text), maxText)])
}
