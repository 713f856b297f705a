#pragma once
#include <ares.h>
#include <arpa/nameser.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/// A channel that reports its sockets to `state`. `servers` is `address[:port],…`, or NULL for those of /etc/resolv.conf.
static inline int swl_ares_open(
    ares_channel *channel, ares_sock_state_cb state, void *data, const char *servers, int timeout_milliseconds, int tries) {
    struct ares_options options;
    memset(&options, 0, sizeof options);
    options.sock_state_cb = state;
    options.sock_state_cb_data = data;
    options.timeout = timeout_milliseconds;
    options.tries = tries;
    int status = ares_init_options(channel, &options, ARES_OPT_SOCK_STATE_CB | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES);
    if (status != ARES_SUCCESS || servers == NULL) return status;
    return ares_set_servers_ports_csv(*channel, servers);
}

/// Milliseconds until `ares_process_fd` wants to be called for its timeouts; -1 when nothing is under way.
static inline int64_t swl_ares_wait_milliseconds(ares_channel channel) {
    struct timeval room;
    struct timeval *left = ares_timeout(channel, NULL, &room);
    return left == NULL ? -1 : (int64_t)left->tv_sec * 1000 + (left->tv_usec + 999) / 1000;
}

/// The smallest TTL of the answer section in seconds; -1 when there is none or the message is malformed (RFC 1035, section 4.1).
static inline int64_t swl_ares_least_ttl(const unsigned char *message, int length) {
    if (length < HFIXEDSZ) return -1;
    int questions = message[4] << 8 | message[5], answers = message[6] << 8 | message[7];
    const unsigned char *place = message + HFIXEDSZ, *end = message + length;
    int64_t least = -1;
    for (int record = 0; record < questions + answers; record++) {
        char *name;
        long taken;
        if (place >= end || ares_expand_name(place, message, length, &name, &taken) != ARES_SUCCESS) return -1;
        ares_free_string(name);
        place += taken;
        int fixed = record < questions ? QFIXEDSZ : RRFIXEDSZ;
        if (end - place < fixed) return -1;
        if (record >= questions) {
            int64_t ttl = (int64_t)place[4] << 24 | place[5] << 16 | place[6] << 8 | place[7];
            int data = place[8] << 8 | place[9];
            if (end - place - fixed < data) return -1;
            if (least < 0 || ttl < least) least = ttl;
            place += data;
        }
        place += fixed;
    }
    return least;
}

/// Bytes that wait in a socket.
static inline int swl_bytes_waiting(int socket) {
    int count = 0;
    return ioctl(socket, FIONREAD, &count) == 0 ? count : 0;
}
