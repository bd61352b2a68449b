package seccomp

var native = &ppc64le
