package safepath

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Calls that resolve a path by themselves, by package.
var byPath = map[string]string{
	"os": `Chdir Chmod Chown Chtimes Create CreateTemp DirFS Lchown Link Lstat Mkdir MkdirAll MkdirTemp Open OpenFile OpenRoot
		ReadDir ReadFile Readlink Remove RemoveAll Rename Stat Symlink Truncate WriteFile`,
	"unix": `Access Chdir Chmod Chown Chroot Creat Exec Faccessat Faccessat2 Fchmodat Fchownat Fspick Fstatat Getxattr
		InotifyAddWatch Lchown Lgetxattr Link Linkat Listxattr Lsetxattr Lstat Mkdir Mkdirat Mkfifo Mknod Mknodat Mount
		MountSetattr MoveMount Open OpenTree Openat Openat2 PivotRoot Readlink Readlinkat Removexattr Rename Renameat Renameat2
		Rmdir Setxattr Stat Statfs Statx Symlink Symlinkat Truncate Unlink Unlinkat Unmount Utimensat Utimes UtimesNanoAt`,
	"syscall":  "Chdir Exec ForkExec Mkdir Mknod Mount Open Stat Unlink",
	"filepath": "EvalSymlinks Glob Walk WalkDir",
	"exec":     "Command CommandContext",
	"vsock":    "Dial Listen ListenContextID",
}

// Where the arguments are that say what is opened, if it is not the first one.
var pathArgument = map[string][]int{"unix.Mount": {0, 1}, "unix.Symlink": {1}, "os.Symlink": {1}}

// The calls of the agent that take a path of which a test can't see that it is nobody's but the agent's, each with the reason
// for which it may; `*` is all of a file or a folder. All others go through this package: a path of the host's may lead through what a
// container writes to.
var allowed = map[string]string{
	"boot *":   "names of ours, and what is mounted, when there is nobody else yet or any more",
	"cgroup *": "cgroups, by ids that are one name, and files of /proc",

	"console/console.go *":                   "a terminal of the guest's, and one of two shells",
	"container/container.go clear os.Remove": "a directory of the agent's, by an id that is one name; only if it is empty",

	"device/find.go SCSI os.WriteFile":         "a file of sysfs",
	"device/find.go glob filepath.Glob":        "files of sysfs, by numbers that were looked at",
	"device/find.go look os.Stat":              "sysfs, and a node in the guest's /dev by one name",
	"guest/hotplug.go *":                       "files of sysfs",
	"metrics/metrics.go read os.ReadFile":      "a file of /proc",
	"metrics/held.go names os.Open":            "a directory of /proc or of cgroups",
	"mirror/mirror.go Stop os.RemoveAll":       "a descriptor, and a name that was looked at; Go follows no link below",
	"procfs/network.go Interfaces os.ReadFile": "a file of /proc",
	"storage/hugepages.go *":                   "files of sysfs",
	"storage/resize.go diskSize os.ReadFile":   "a file of sysfs",
	"storage/stale.go LookAtMounts unix.Lstat": "it only looks",

	"mount/mount.go ReadOnly unix.MountSetattr": "the root of a container, from within",
	"mount/mount.go unmount unix.Unmount":       "of who calls it: below a base it is a descriptor and one name",
	"safepath/safepath.go - unix.Openat2":       "this is where paths are resolved",
	"safepath/pathtest/exchange.go *":           "files of a test's own",
	"sandbox/sandbox.go wipe os.MkdirAll":       "the base itself, before there is a sandbox",
	"sandbox/sandbox.go wipe os.RemoveAll":      "the base itself, before there is a sandbox; Go follows no link below",
	"sandbox/sandbox.go setResolver unix.Open":  "the guest's own resolv.conf",

	"shim/build.go enter unix.Chdir":            "the root of a container, which is mounted on a directory of the agent's",
	"shim/find.go find os.Stat":                 "in the container",
	"shim/home.go *":                            "in the container",
	"shim/protect.go writable filepath.WalkDir": "in the container",
	"shim/protect.go open unix.Open":            "in the container",
	"shim/run.go launch unix.Exec":              "in the container",
	"shim/run.go changeDirectory unix.Chdir":    "in the container",
	"shim/spawn.go *":                           "the agent's own program",
	"shim/hooks.go *":                           "in the container",

	"listen.go listen os.Remove":        "a socket that the agent's own settings name",
	"listen.go - vsock.ListenContextID": "this is where ports are opened, for the host alone",
}

// call is one that is to be looked at.
type call struct{ key, place string }

func callsOf(t *testing.T, root string) (found []call) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, declaration := range parsed.Decls {
			for _, each := range callsIn(declaration) {
				key := fmt.Sprintf("%s %s %s", name, nameOf(declaration), each.name)
				found = append(found, call{key, files.Position(each.at).String()})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func nameOf(declaration ast.Decl) string {
	if function, is := declaration.(*ast.FuncDecl); is {
		return function.Name.Name
	}
	return "-"
}

type use struct {
	name string
	at   token.Pos
}

// callsIn returns uses of the functions above, called or not, but for calls whose path a test can see to be harmless.
func callsIn(declaration ast.Decl) (found []use) {
	harmless := map[ast.Node]bool{}
	ast.Inspect(declaration, func(node ast.Node) bool {
		if made, is := node.(*ast.CallExpr); is {
			if name := resolver(made.Fun); name != "" && takesNoPath(name, made.Args) {
				harmless[made.Fun] = true
			}
		}
		if expression, is := node.(ast.Expr); is && !harmless[node] {
			if name := resolver(expression); name != "" {
				found = append(found, use{name, node.Pos()})
			}
		}
		return true
	})
	return found
}

// resolver returns the name of a function above, and nothing for any other expression.
func resolver(expression ast.Expr) string {
	selector, is := expression.(*ast.SelectorExpr)
	if !is {
		return ""
	}
	from, is := selector.X.(*ast.Ident)
	if !is || !slices.Contains(strings.Fields(byPath[from.Name]), selector.Sel.Name) {
		return ""
	}
	return from.Name + "." + selector.Sel.Name
}

// takesNoPath tells whether a call's paths are constants, descriptors, or names below a descriptor.
func takesNoPath(name string, args []ast.Expr) bool {
	if takesDescriptor(name) {
		return !slices.ContainsFunc(args, isHere)
	}
	places, known := pathArgument[name]
	if !known {
		places = []int{0}
	}
	return !slices.ContainsFunc(places, func(i int) bool { return !isOurs(args[i]) })
}

// takesDescriptor tells whether a call's paths are below a directory's descriptor.
func takesDescriptor(name string) bool {
	name, is := strings.CutPrefix(name, "unix.")
	if slices.Contains([]string{"Stat", "Lstat", "Creat"}, name) {
		return false
	}
	others := []string{"OpenTree", "MoveMount", "Fspick", "Statx", "MountSetattr", "UtimesNanoAt"}
	return is && (strings.HasSuffix(strings.TrimSuffix(name, "2"), "at") || slices.Contains(others, name))
}

// isHere tells whether a directory is the working one, whatever its descriptor is called.
func isHere(directory ast.Expr) bool {
	selector, is := directory.(*ast.SelectorExpr)
	return is && selector.Sel.Name == "AT_FDCWD"
}

// isOurs tells whether a path is a constant, or begins with one in /proc or /dev.
func isOurs(path ast.Expr) bool {
	switch path := path.(type) {
	case *ast.BasicLit:
		return true
	case *ast.BinaryExpr:
		return beginsOurs(path.X)
	case *ast.CallExpr:
		selector, is := path.Fun.(*ast.SelectorExpr)
		return is && selector.Sel.Name == "Sprintf" && beginsOurs(path.Args[0])
	}
	return false
}

func beginsOurs(path ast.Expr) bool {
	if binary, is := path.(*ast.BinaryExpr); is {
		return beginsOurs(binary.X)
	}
	literal, is := path.(*ast.BasicLit)
	if !is {
		return false
	}
	text, err := strconv.Unquote(literal.Value)
	return err == nil && (strings.HasPrefix(text, "/proc/") || strings.HasPrefix(text, "/dev/pts/"))
}

// A call that is new goes through safepath, or gets a line above with the reason for which it may not.
func TestNoPathIsResolvedElsewhere(t *testing.T) {
	seen := map[string]bool{}
	for _, found := range append(callsOf(t, ".."), callsOf(t, "../../cmd/agent")...) {
		if strings.HasPrefix(found.key, "conform/") { // a program that is run in containers
			continue
		}
		key := found.key
		file, _, _ := strings.Cut(key, " ")
		for _, all := range []string{file + " *", filepath.Dir(file) + " *"} {
			if allowed[all] != "" {
				key = all
			}
		}
		seen[key] = true
		if allowed[key] == "" {
			t.Errorf("%s: %q takes a path that a test can't see to be the agent's own", found.place, found.key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(allowed)) {
		if !seen[key] {
			t.Errorf("there is no %q", key)
		}
	}
}
