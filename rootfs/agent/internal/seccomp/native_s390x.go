package seccomp

var native = &s390x
