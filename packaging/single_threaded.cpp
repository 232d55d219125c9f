// glibc 2.32 tells libstdc++ whether a process has one thread, so that reference counts need no atomic operations then.
// A module for older systems has its own answer, which is always right: there may be several.
extern "C" {
char __libc_single_threaded = 0;
}
