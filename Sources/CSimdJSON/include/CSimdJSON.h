#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The C face of two C++ pieces: a chained chunk hasher, and a reader that walks one request body's JSON and feeds
// that hasher. One request costs one call. Nothing here throws, and nothing allocates once its buffers have grown.

#ifdef __cplusplus
extern "C" {
#endif

/// Bytes without an owner. `bytes` is NULL when the value is absent; an empty value has a pointer and length 0.
typedef struct swl_text {
    const uint8_t *bytes;
    size_t length;
} swl_text;

/// State of a chunk hasher. The caller owns both buffers: `hashes` holds `capacity` entries, `staging` `chunk_bytes` bytes.
typedef struct swl_prompt_hasher {
    uint64_t *hashes;
    uint8_t *staging;
    uint64_t chain;
    uint64_t total_bytes;
    uint32_t capacity;
    uint32_t count;
    uint32_t chunk_bytes;
    uint32_t staged;
} swl_prompt_hasher;

/// Starts a chain at `seed`.
void swl_prompt_hasher_begin(swl_prompt_hasher *hasher, uint64_t seed);

/// Mixes what separates two caches (model, LoRA, salt) into the chain. `kind` keeps equal bytes of two kinds apart.
/// Must precede the first append.
void swl_prompt_hasher_salt(swl_prompt_hasher *hasher, uint64_t kind, const void *bytes, size_t length);

/// Appends prompt bytes; slicing does not change the result.
void swl_prompt_hasher_append(swl_prompt_hasher *hasher, const void *bytes, size_t length);

/// Body fields that may be watched at once, and bytes in the name of one.
enum { swl_watched_fields = 8, swl_watched_name_bytes = 64 };

/// What routing needs of one request body. Texts are unescaped UTF-8.
typedef struct swl_request_facts {
    swl_text model;
    swl_text user;
    swl_text cache_salt;
    double temperature;
    int64_t seed;
    int64_t max_tokens;
    int64_t n;
    /// Prompts of a batch, at least 1.
    int64_t prompts;
    /// Tokens of a prompt that is token ids and nothing else; 0 when it is not, or there is none.
    int64_t prompt_tokens;
    /// Of a conversation: digests of its canonical prompt with all that seeds its chain, and of what that was before the last answer in it. 0: unknown,
    /// or there was none.
    uint64_t prompt_digest;
    uint64_t former_turn_digest;
    /// XXH3 of each watched field that is a string or a whole number, never 0; 0 when it is absent, empty or something else.
    uint64_t watched[swl_watched_fields];
    bool is_json;
    bool stream;
    bool include_usage;
    /// The engine will compute all of the prompt, whatever it holds of it.
    bool skips_cache;
    bool has_temperature;
    bool has_seed;
    bool has_max_tokens;
} swl_request_facts;

typedef struct swl_request_reader swl_request_reader;

/// Bytes that must be readable past the end of a body (their values do not matter).
size_t swl_request_padding(void);

/// NULL when memory is short. With `library_only` simdjson reads every body: the second opinion that tests compare with.
swl_request_reader *swl_request_reader_create(bool library_only);
void swl_request_reader_destroy(swl_request_reader *reader);

/// Has the reader hash one more field of the bodies to come: a member of the body, or with a dot in its name a member of an object in
/// it. False when there are `swl_watched_fields` already, or the name is empty or too long.
bool swl_request_reader_watch(swl_request_reader *reader, const uint8_t *name, size_t length);

/// Reads one body and feeds its canonical prompt to `hasher`. Texts in `facts` live until the next call with this reader.
/// A body that is no JSON, nests too deep or is larger than the reader's bounds leaves `facts->is_json` false.
void swl_request_reader_read(
    swl_request_reader *reader, const uint8_t *body, size_t length, uint64_t seed, swl_prompt_hasher *hasher,
    swl_request_facts *facts);

#ifdef __cplusplus
}
#endif
