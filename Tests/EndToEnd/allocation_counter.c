// Counts a process's allocations: preloaded (LD_PRELOAD) in front of glibc's allocator, read from outside through the file that
// ALLOCATION_COUNTS names, which holds two native 64-bit numbers: allocations by nghttp2 and OpenSSL, and by everybody else.
// Frees are not counted: what is freed was allocated.
//
// ALLOCATION_STACKS names a file that gets, on SIGUSR2, one line per distinct stack: its count, then the return addresses.
// Counting of stacks begins with a first SIGUSR2, so that start-up and warm-up stay out of it.
#define _GNU_SOURCE
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

enum { LIBRARY, OWN };
static _Atomic uint64_t before_start[2];
static _Atomic uint64_t *counts = before_start;

static struct { uintptr_t start, end; } libraries[8];
static int library_count;

enum { FRAMES = 24, STACKS = 4096 };
static struct { uint64_t count; int depth; void *frames[FRAMES]; } stacks[STACKS];
static _Atomic int recording;
static __thread int inside;

static void record_stack(void) {
    if (inside) return;
    inside = 1;
    void *frames[FRAMES + 2];
    int depth = backtrace(frames, FRAMES + 2) - 2;
    if (depth > 0) {
        uint64_t hash = 1469598103934665603u;
        for (int i = 0; i < depth; i++) hash = (hash ^ (uintptr_t)frames[i + 2]) * 1099511628211u;
        for (unsigned probe = 0; probe < STACKS; probe++) {
            unsigned at = (hash + probe) % STACKS;
            if (stacks[at].count && (stacks[at].depth != depth || memcmp(stacks[at].frames, frames + 2, depth * sizeof *frames))) continue;
            stacks[at].depth = depth;
            memcpy(stacks[at].frames, frames + 2, depth * sizeof *frames);
            stacks[at].count++;
            break;
        }
    }
    inside = 0;
}

static inline void count(void *caller) {
    int who = OWN;
    for (int i = 0; i < library_count; i++)
        if ((uintptr_t)caller >= libraries[i].start && (uintptr_t)caller < libraries[i].end) who = LIBRARY;
    atomic_fetch_add_explicit(&counts[who], 1, memory_order_relaxed);
    if (atomic_load_explicit(&recording, memory_order_relaxed)) record_stack();
}

void *malloc(size_t bytes) { count(__builtin_return_address(0)); return __libc_malloc(bytes); }
void *calloc(size_t number, size_t bytes) { count(__builtin_return_address(0)); return __libc_calloc(number, bytes); }
void *realloc(void *old, size_t bytes) { count(__builtin_return_address(0)); return __libc_realloc(old, bytes); }
void *memalign(size_t alignment, size_t bytes) { count(__builtin_return_address(0)); return __libc_memalign(alignment, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) { count(__builtin_return_address(0)); return __libc_memalign(alignment, bytes); }
int posix_memalign(void **result, size_t alignment, size_t bytes) {
    count(__builtin_return_address(0));
    *result = __libc_memalign(alignment, bytes);
    return *result ? 0 : 12;
}

static int note_library(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size, (void)context;
    if (!strstr(info->dlpi_name, "libnghttp2") && !strstr(info->dlpi_name, "libcrypto") && !strstr(info->dlpi_name, "libssl")) return 0;
    for (int i = 0; i < info->dlpi_phnum && library_count < 8; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X)) continue;
        libraries[library_count].start = info->dlpi_addr + segment->p_vaddr;
        libraries[library_count++].end = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
    }
    return 0;
}

static void toggle(int number) {
    (void)number;
    if (!recording) { recording = 1; return; }
    recording = 0;
    const char *path = getenv("ALLOCATION_STACKS");
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    for (int i = 0; i < STACKS; i++) {
        if (!stacks[i].count) continue;
        dprintf(file, "%llu", (unsigned long long)stacks[i].count);
        for (int frame = 0; frame < stacks[i].depth; frame++) dprintf(file, " %p", stacks[i].frames[frame]);
        dprintf(file, "\n");
    }
    close(file);
}

__attribute__((constructor)) static void start(void) {
    dl_iterate_phdr(note_library, NULL);
    const char *path = getenv("ALLOCATION_COUNTS");
    int file = path ? open(path, O_CREAT | O_RDWR, 0644) : -1;
    if (file >= 0 && ftruncate(file, 2 * sizeof(uint64_t)) == 0) {
        void *shared = mmap(NULL, 2 * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (shared != MAP_FAILED) counts = shared;
        close(file);
    }
    if (getenv("ALLOCATION_STACKS")) {
        void *warm[4];
        backtrace(warm, 4);
        signal(SIGUSR2, toggle);
    }
}
