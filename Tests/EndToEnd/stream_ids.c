// Preloaded (LD_PRELOAD) in front of libnghttp2: every client's session begins with the last six of its 2^30 stream ids.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <nghttp2/nghttp2.h>

typedef int make_session(nghttp2_session **, const nghttp2_session_callbacks *, void *, const nghttp2_option *, nghttp2_mem *);

int nghttp2_session_client_new3(nghttp2_session **session, const nghttp2_session_callbacks *callbacks, void *context,
                                const nghttp2_option *option, nghttp2_mem *memory) {
    make_session *make = (make_session *)dlsym(RTLD_NEXT, "nghttp2_session_client_new3");
    int result = make(session, callbacks, context, option, memory);
    if (result == 0) nghttp2_session_set_next_stream_id(*session, 0x7ffffff5);
    return result;
}
