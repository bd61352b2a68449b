// Package fields is an allow-list over the fields of messages. A field that is set and that no table has is refused by its
// name: one that is left out in silence may be a protection that somebody relies on.
package fields

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"guestforge.dev/agent/internal/fault"
)

// Table says what becomes of each field of some messages. A field's name is the way to it from the top of a message; with
// ByType it is that of the message that it is in, and its own, wherever such a message is.
type Table struct {
	Of      string              // what an error says after a field's name
	Served  map[string]string   // to nothing, or to the reason for which nothing is made of it
	Refused map[string]string   // to the reason
	Values  map[string][]string // of fields that are served with some of their values only, and these
	ByType  bool
}

// Parse reads lines of a field's name and of a reason, where it has one.
func Parse(lines string) map[string]string {
	known := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		known[name] = strings.TrimSpace(reason)
	}
	return known
}

// Check returns an error for a field that is set and not served.
func (t *Table) Check(message proto.Message) error {
	reflected := message.ProtoReflect()
	return t.walk(t.Prefix("", reflected.Descriptor()), reflected)
}

// Prefix is what the names of a message's fields begin with, where the message itself is a field of a name.
func (t *Table) Prefix(name string, message protoreflect.MessageDescriptor) string {
	switch {
	case t.ByType:
		return string(message.Name()) + "."
	case name == "":
		return ""
	}
	return name + "."
}

func (t *Table) walk(prefix string, message protoreflect.Message) error {
	if len(message.GetUnknown()) > 0 {
		return fault.Unimplemented("fields%s below %q that a newer API has", t.Of, prefix)
	}
	var err error
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		err = t.look(prefix+string(field.Name()), field, value)
		return err == nil
	})
	return err
}

func (t *Table) look(name string, field protoreflect.FieldDescriptor, value protoreflect.Value) error {
	if _, known := t.Served[name]; known {
		return t.among(name, value)
	}
	_, refused := t.Refused[name]
	if refused || field.Message() == nil || field.IsMap() {
		return t.refuse(name)
	}
	prefix := t.Prefix(name, field.Message())
	for _, message := range messages(field, value) {
		if err := t.walk(prefix, message); err != nil {
			return err
		}
	}
	if !t.leads(prefix, field.Message()) {
		return t.refuse(name)
	}
	return nil
}

func messages(field protoreflect.FieldDescriptor, value protoreflect.Value) []protoreflect.Message {
	if !field.IsList() {
		return []protoreflect.Message{value.Message()}
	}
	var all []protoreflect.Message
	for i := range value.List().Len() {
		all = append(all, value.List().Get(i).Message())
	}
	return all
}

func (t *Table) refuse(name string) error {
	if reason := t.Refused[name]; reason != "" {
		return fault.Unimplemented("%s%s (%s)", name, t.Of, reason)
	}
	return fault.Unimplemented("%s%s", name, t.Of)
}

// leads tells whether a message has fields that are served, so that it may be there itself.
func (t *Table) leads(prefix string, message protoreflect.MessageDescriptor) bool {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		name := prefix + string(field.Name())
		if _, served := t.Served[name]; served {
			return true
		}
		if _, refused := t.Refused[name]; refused || field.Message() == nil || field.IsMap() {
			continue
		}
		if t.leads(t.Prefix(name, field.Message()), field.Message()) {
			return true
		}
	}
	return false
}

func (t *Table) among(name string, value protoreflect.Value) error {
	if some, bounded := t.Values[name]; bounded && !slices.Contains(some, value.String()) {
		return fault.Unimplemented("%s%s: %q", name, t.Of, value.String())
	}
	return nil
}
