package container

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/fields/fieldtest"
)

// FuzzSpec checks any request for a container, as it is decoded from what came: it is taken, or what is wrong with it is the
// caller's.
func FuzzSpec(f *testing.F) {
	for _, way := range fieldtest.Ways(schema()) {
		spec := &api.Spec{Root: &api.Root{Path: "/base/c"}, Process: &api.Process{Args: []string{"/a"}, Cwd: "/"}}
		way.Set(spec.ProtoReflect(), "1")
		text, err := proto.Marshal(&api.CreateContainerRequest{ContainerId: "c", OCI: spec})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		wanted := &api.CreateContainerRequest{}
		if proto.Unmarshal(text, wanted) != nil {
			return
		}
		err := check(wanted, "/base", true)
		own := (*fault.Error)(nil)
		if err != nil && (!errors.As(err, &own) || own.Code != codes.InvalidArgument && own.Code != codes.Unimplemented) {
			t.Errorf("%v is not the caller's", err)
		}
		if err == nil && checkFields(wanted.OCI) != nil {
			t.Error("a field that is not served was taken")
		}
	})
}
