// Package fieldtest holds a table of fields against the messages that it is for, and sets single fields, for tests.
package fieldtest

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"guestforge.dev/agent/internal/fields"
)

// Way is the way to a field from the top of a message.
type Way []protoreflect.FieldDescriptor

// Ways returns a way to each field of a message that has a value of its own.
func Ways(message protoreflect.MessageDescriptor) (all []Way) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		var below []Way
		if field.Message() != nil && !field.IsMap() {
			below = Ways(field.Message())
		}
		if len(below) == 0 {
			below = []Way{nil}
		}
		for _, rest := range below {
			all = append(all, append(Way{field}, rest...))
		}
	}
	return all
}

// Names returns a table's names of all fields on a way.
func (w Way) Names(table *fields.Table, top protoreflect.MessageDescriptor) (all []string) {
	prefix := table.Prefix("", top)
	for _, field := range w {
		name := prefix + string(field.Name())
		all = append(all, name)
		if field.Message() != nil {
			prefix = table.Prefix(name, field.Message())
		}
	}
	return all
}

// Set gives the field at the end of a way a value, which is the text where it takes one.
func (w Way) Set(message protoreflect.Message, text string) {
	field := w[0]
	switch {
	case field.IsMap():
		message.Mutable(field).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString(text))
	case field.Message() != nil && field.IsList():
		w[1:].setBelow(message.Mutable(field).List().AppendMutable().Message(), text)
	case field.Message() != nil:
		w[1:].setBelow(message.Mutable(field).Message(), text)
	case field.IsList():
		message.Mutable(field).List().Append(Value(field, text))
	default:
		message.Set(field, Value(field, text))
	}
}

func (w Way) setBelow(message protoreflect.Message, text string) {
	if len(w) > 0 {
		w.Set(message, text)
	}
}

// Value returns a value of a field that is no message: a text, or of any other kind what is not its default.
func Value(field protoreflect.FieldDescriptor, text string) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1)
	}
	panic("a field of a kind that no message had so far: " + string(field.FullName()))
}

// Hold sets each field of some messages alone: it has a line in one part of the table, and the answer that this part says. No
// line is for a field that is not there. It returns how many lines refuse.
func Hold(t *testing.T, table *fields.Table, tops ...protoreflect.MessageDescriptor) (refused int) {
	t.Helper()
	seen := map[string]bool{}
	for _, top := range tops {
		for _, way := range Ways(top) {
			names := way.Names(table, top)
			for _, name := range names {
				seen[name] = true
			}
			holdOne(t, table, top, way, names)
		}
	}
	for _, part := range []map[string]string{table.Served, table.Refused} {
		for name := range part {
			if !seen[name] {
				t.Errorf("no field %s in the schema", name)
			}
		}
	}
	return len(table.Refused)
}

func holdOne(t *testing.T, table *fields.Table, top protoreflect.MessageDescriptor, way Way, names []string) {
	t.Helper()
	line := slices.IndexFunc(names, func(name string) bool {
		_, served := table.Served[name]
		_, refused := table.Refused[name]
		return served || refused
	})
	if line < 0 {
		t.Errorf("%s is in no line of the table", names[len(names)-1])
		return
	}
	name, text := names[line], "1"
	if some := table.Values[name]; len(some) > 0 {
		text = some[0]
	}
	message := dynamicpb.NewMessage(top)
	way.Set(message, text)
	err := table.Check(message)
	_, served := table.Served[name]
	reason, refused := table.Refused[name]
	switch {
	case served == refused:
		t.Errorf("%s is served and refused", name)
	case served && err != nil:
		t.Errorf("%s: %v", name, err)
	case refused && (err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), reason)):
		t.Errorf("%s is left out in silence, or without its reason: %v", name, err)
	case refused && reason == "":
		t.Errorf("%s is refused without a reason", name)
	}
}
