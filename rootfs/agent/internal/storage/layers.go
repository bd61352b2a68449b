package storage

import (
	"fmt"
	"os"
	"strings"

	"guestforge.dev/agent/internal/fault"
	"guestforge.dev/agent/internal/safepath"
)

// The options of an overlay that name directories; lowerdir has several, with colons.
var layers = map[string]bool{"lowerdir": true, "upperdir": true, "workdir": true}

// What an overlay may be told besides (Documentation/filesystems/overlayfs.rst). Some options of newer kernels name
// directories too, in ways of their own (lowerdir+).
var overlayOptions = map[string]bool{
	"index": true, "metacopy": true, "nfs_export": true, "redirect_dir": true, "userxattr": true, "uuid": true,
	"verity": true, "volatile": true, "xino": true,
}

// openLayers opens the directories that an overlay's options name, and makes the options name them by their descriptors.
// They lie below the base, in what containers and the host write to: a path could lead elsewhere by the time of the mount.
// Those that are not there are made. The files are the caller's to close, with an error too.
func (m *Manager) openLayers(options []string) ([]*os.File, error) {
	var opened []*os.File
	for i, option := range options {
		key, value, _ := strings.Cut(option, "=")
		if overlayOptions[key] {
			continue
		}
		if !layers[key] {
			return opened, fault.Invalid("not an option of an overlay: %q", key)
		}
		var names []string
		for layer := range strings.SplitSeq(value, ":") {
			directory, err := m.openLayer(layer)
			if err != nil {
				return opened, fmt.Errorf("layer of an overlay: %w", err)
			}
			opened = append(opened, directory)
			names = append(names, fmt.Sprintf("/proc/self/fd/%d", directory.Fd()))
		}
		options[i] = key + "=" + strings.Join(names, ":")
	}
	return opened, nil
}

func (m *Manager) openLayer(layer string) (*os.File, error) {
	if strings.Contains(layer, "\\") { // an escaped character would make two paths of one
		return nil, fault.Invalid("a path with a backslash: %q", layer)
	}
	relative, err := safepath.Below(m.Base, layer)
	if err != nil {
		return nil, err
	}
	root, err := safepath.Open(m.Base, safepath.Strict)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Mkdir(relative, 0o755)
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
