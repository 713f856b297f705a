// Linux calls and macros that Swift's Glibc module does not export.
#pragma once
#include <elf.h>
#include <errno.h>
#include <netinet/in.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// As numbers, so that Swift folds them; checked against the kernel's own below.
#define SWL_IN 0x1u
#define SWL_OUT 0x4u
#define SWL_ERROR 0x8u
#define SWL_HUNG_UP 0x10u
#define SWL_PEER_CLOSED 0x2000u
#define SWL_EDGE_TRIGGERED 0x80000000u
_Static_assert(SWL_IN == EPOLLIN && SWL_OUT == EPOLLOUT && SWL_ERROR == EPOLLERR && SWL_HUNG_UP == EPOLLHUP &&
                   SWL_PEER_CLOSED == EPOLLRDHUP && SWL_EDGE_TRIGGERED == (uint32_t)EPOLLET,
               "epoll flags");

// glibc hides it without _GNU_SOURCE, which would change the layout of types that other modules import.
extern int accept4(int, struct sockaddr *, socklen_t *, int);
static inline int swl_accept(int fd, struct sockaddr *address, socklen_t *length) {
    return accept4(fd, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}
static inline int swl_stream_socket(int family) { return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }
static inline int swl_datagram_socket(int family) { return socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }
static inline int swl_set_option(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}
static inline int swl_no_delay(int fd) { return swl_set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); }
/// Bytes written to a TCP socket that the peer's kernel has not acknowledged.
static inline int swl_unacknowledged(int fd) {
    int bytes = 0;
    return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? bytes : 0;
}
static inline int swl_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
static inline int swl_inotify(void) { return inotify_init1(IN_NONBLOCK | IN_CLOEXEC); }
/// Everything by which the contents of a file in `folder` may come to differ.
static inline int swl_watch_folder(int inotify, const char *folder) {
    return inotify_add_watch(
        inotify, folder, IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF);
}
static inline int swl_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
static inline int swl_epoll_add(int epoll, int fd, uint32_t events, uint64_t key) {
    struct epoll_event event = {.events = events, .data.u64 = key};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}
static inline int swl_epoll_remove(int epoll, int fd) { return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }

/// Waits with nanosecond precision. A negative timeout waits for ever.
static inline int swl_epoll_wait(int epoll, struct epoll_event *events, int capacity, int64_t timeout_nanoseconds) {
    if (timeout_nanoseconds < 0) return epoll_wait(epoll, events, capacity, -1);
    if (timeout_nanoseconds == 0) return epoll_wait(epoll, events, capacity, 0);
    struct timespec timeout = {timeout_nanoseconds / 1000000000, timeout_nanoseconds % 1000000000};
    int count = epoll_pwait2(epoll, events, capacity, &timeout, NULL);
    if (count < 0 && errno == ENOSYS) {  // before Linux 5.11
        int64_t milliseconds = (timeout_nanoseconds + 999999) / 1000000;
        return epoll_wait(epoll, events, capacity, milliseconds > 3600000 ? 3600000 : (int)milliseconds);
    }
    return count;
}
static inline uint32_t swl_event_flags(const struct epoll_event *events, int index) { return events[index].events; }
static inline uint64_t swl_event_key(const struct epoll_event *events, int index) { return events[index].data.u64; }
static inline struct epoll_event *swl_event_array(int capacity) { return (struct epoll_event *)calloc(capacity, sizeof(struct epoll_event)); }

static inline uint64_t swl_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
static inline uint64_t swl_wall_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// glibc declares it under _GNU_SOURCE alone.
extern void *memmem(const void *haystack, size_t haystack_count, const void *needle, size_t needle_count);
static inline const void *swl_find(const void *bytes, size_t count, const void *wanted, size_t wanted_count) {
    return memmem(bytes, count, wanted, wanted_count);
}

// Timers of ordinary threads may be 50 us late, so that the kernel can gather them; this thread's are not from now on.
static inline int swl_tighten_timers(void) { return prctl(PR_SET_TIMERSLACK, 1ul); }

// The calling thread alone: SCHED_RESET_ON_FORK, which glibc hides, makes what it starts ordinary again, and pid 0 is this thread.
static inline int swl_schedule_real_time(int priority) {
    struct sched_param parameter = {.sched_priority = priority};
    return sched_setscheduler(0, SCHED_RR | 0x40000000, &parameter);
}
static inline int swl_schedule_ordinarily(void) {
    struct sched_param parameter = {.sched_priority = 0};
    return sched_setscheduler(0, SCHED_OTHER, &parameter);
}
/// The calling thread's priority under SCHED_RR or SCHED_FIFO; 0: it is an ordinary one.
static inline int swl_real_time_priority(void) {
    struct sched_param parameter = {.sched_priority = 0};
    int policy = sched_getscheduler(0) & ~0x40000000;
    return (policy == SCHED_RR || policy == SCHED_FIFO) && sched_getparam(0, &parameter) == 0 ? parameter.sched_priority : 0;
}

/// Lets go of the pages of the program's code, of which start-up has touched most and serving needs few. They are those of the file,
/// unchanged: what is needed again is mapped again, from the page cache. Does nothing where the program's headers say nothing.
static inline void swl_forget_code(void) {
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    size_t count = headers ? getauxval(AT_PHNUM) : 0;
    uintptr_t base = 0, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < count; i++)
        if (headers[i].p_type == PT_PHDR) base = (uintptr_t)headers - headers[i].p_vaddr;
    for (size_t i = 0; i < count; i++) {
        if (headers[i].p_type != PT_LOAD || !(headers[i].p_flags & PF_X) || (headers[i].p_flags & PF_W)) continue;
        uintptr_t start = (base + headers[i].p_vaddr + page - 1) & ~(page - 1);
        uintptr_t end = (base + headers[i].p_vaddr + headers[i].p_memsz) & ~(page - 1);
        if (end > start) madvise((void *)start, end - start, MADV_DONTNEED);
    }
}
