package container

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"guestforge.dev/agent/internal/api"
	"guestforge.dev/agent/internal/fields/fieldtest"
)

func schema() protoreflect.MessageDescriptor { return (&api.Spec{}).ProtoReflect().Descriptor() }

// Each field of the schema alone: it is in one of the tables, and refused by its name if it is in that one.
func TestEveryFieldOfTheSpecHasAnAnswer(t *testing.T) {
	if lines := fieldtest.Hold(t, &table, schema()); lines < 15 {
		t.Errorf("only %d fields are refused: this test shows nothing", lines)
	}
}

func TestFieldsOfAFewValuesTakeNoOthers(t *testing.T) {
	for name, some := range table.Values {
		for _, way := range fieldtest.Ways(schema()) {
			if names := way.Names(&table, schema()); names[len(names)-1] != name {
				continue
			}
			for _, text := range append(slices.Clone(some), "network", "shared", "user", "") {
				spec := &api.Spec{}
				way.Set(spec.ProtoReflect(), text)
				if err := checkFields(spec); (err == nil) != (slices.Contains(some, text) || text == "") {
					t.Errorf("%s %q: %v", name, text, err)
				}
			}
		}
	}
}

func TestFieldsOfANewerAPIAreRefused(t *testing.T) {
	spec := &api.Spec{Linux: &api.Linux{}}
	spec.Linux.ProtoReflect().SetUnknown(protoreflect.RawFields{0xfa, 0x06, 0x00}) // field 111, empty
	if err := checkFields(proto.CloneOf(spec)); err == nil {
		t.Error("an unknown field is left out in silence")
	}
}

func TestAnEmptyListOfHooksAsksForNothing(t *testing.T) {
	if err := checkFields(&api.Spec{Hooks: &api.Hooks{}}); err != nil {
		t.Error(err)
	}
}

// Rules of devices protect; limits do not.
func TestWithoutCgroupsRulesOfDevicesAreRefused(t *testing.T) {
	request := func(resources *api.LinuxResources) *api.CreateContainerRequest {
		return &api.CreateContainerRequest{OCI: &api.Spec{
			Root: &api.Root{Path: "/base/c"}, Process: &api.Process{Args: []string{"/a"}}, Linux: &api.Linux{Resources: resources},
		}}
	}
	rules := request(&api.LinuxResources{Devices: []*api.LinuxDeviceCgroup{{Access: "rwm"}}})
	limits := request(&api.LinuxResources{Pids: &api.LinuxPids{Limit: 10}})
	for _, test := range []struct {
		request *api.CreateContainerRequest
		cgroups bool
		taken   bool
	}{{rules, false, false}, {rules, true, true}, {limits, false, true}, {limits, true, true}} {
		if err := check(test.request, "/base", test.cgroups); (err == nil) != test.taken {
			t.Errorf("%v with cgroups %v: %v", test.request.OCI.Linux.Resources, test.cgroups, err)
		}
	}
}
