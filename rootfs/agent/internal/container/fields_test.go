package container

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"guestforge.dev/agent/internal/api"
)

// paths returns a way to each field of a message that has a value of its own.
func paths(message protoreflect.MessageDescriptor) (all [][]protoreflect.FieldDescriptor) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if field.Message() == nil || field.IsMap() {
			all = append(all, []protoreflect.FieldDescriptor{field})
			continue
		}
		for _, rest := range paths(field.Message()) {
			all = append(all, append([]protoreflect.FieldDescriptor{field}, rest...))
		}
		if field.Message().Fields().Len() == 0 {
			all = append(all, []protoreflect.FieldDescriptor{field})
		}
	}
	return all
}

func nameOf(path []protoreflect.FieldDescriptor) string {
	var names []string
	for _, field := range path {
		names = append(names, string(field.Name()))
	}
	return strings.Join(names, ".")
}

// with sets one field of a message, to a text where it takes one.
func with(message protoreflect.Message, path []protoreflect.FieldDescriptor, text string) {
	field := path[0]
	switch {
	case field.IsMap():
		message.Mutable(field).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString(text))
	case field.Message() != nil && field.IsList():
		element := message.Mutable(field).List().AppendMutable().Message()
		if len(path) > 1 {
			with(element, path[1:], text)
		}
	case field.Message() != nil:
		below := message.Mutable(field).Message()
		if len(path) > 1 {
			with(below, path[1:], text)
		}
	case field.IsList():
		message.Mutable(field).List().Append(value(field, text))
	default:
		message.Set(field, value(field, text))
	}
}

func value(field protoreflect.FieldDescriptor, text string) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	}
	return protoreflect.ValueOfUint64(1)
}

// Each field of the schema alone: it is in the table, or it is refused by its name.
func TestEveryFieldOfTheSpecHasAnAnswer(t *testing.T) {
	names, refused := map[string]bool{}, 0
	for _, path := range paths((&api.Spec{}).ProtoReflect().Descriptor()) {
		name := nameOf(path)
		spec := &api.Spec{}
		with(spec.ProtoReflect(), path, "private")
		known := false
		for prefix := name; prefix != ""; {
			names[prefix] = true
			_, found := served[prefix]
			known = known || found
			prefix = prefix[:max(0, strings.LastIndexByte(prefix, '.'))]
		}
		err := checkFields(spec)
		if known && name != "Linux.Namespaces.Type" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		refused++
		if err == nil || !strings.Contains(err.Error(), strings.Split(name, ".")[0]) {
			t.Errorf("%s is left out in silence: %v", name, err)
		}
	}
	if refused < 20 {
		t.Errorf("only %d fields are refused: this test shows nothing", refused)
	}
	for name := range served {
		if !names[name] {
			t.Errorf("no field %s in the schema", name)
		}
	}
}

func TestFieldsOfAFewValuesTakeNoOthers(t *testing.T) {
	for name, some := range values {
		for _, path := range paths((&api.Spec{}).ProtoReflect().Descriptor()) {
			if nameOf(path) != name {
				continue
			}
			for _, text := range append(slices.Clone(some), "network", "shared", "user", "") {
				spec := &api.Spec{}
				with(spec.ProtoReflect(), path, text)
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
