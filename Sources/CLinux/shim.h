// Linux calls and macros that Swift's Glibc module does not export.
#pragma once
#define _GNU_SOURCE 1
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static inline int swl_accept4(int fd, struct sockaddr *address, socklen_t *length) {
    return accept4(fd, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}
static inline int swl_stream_socket(int family) {
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}
static inline int swl_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
static inline int swl_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
static inline int swl_epoll_add(int epoll, int fd, uint32_t events, uint64_t key) {
    struct epoll_event event = {.events = events, .data.u64 = key};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}
static inline int swl_epoll_modify(int epoll, int fd, uint32_t events, uint64_t key) {
    struct epoll_event event = {.events = events, .data.u64 = key};
    return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}
static inline int swl_epoll_remove(int epoll, int fd) { return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }
static inline uint32_t swl_epoll_event_flags(const struct epoll_event *events, int index) { return events[index].events; }
static inline uint64_t swl_epoll_event_key(const struct epoll_event *events, int index) { return events[index].data.u64; }
static inline int swl_set_option(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

static const uint32_t swl_in = EPOLLIN, swl_out = EPOLLOUT, swl_rdhup = EPOLLRDHUP, swl_hup = EPOLLHUP, swl_err = EPOLLERR,
                      swl_edge = 1u << 31;
