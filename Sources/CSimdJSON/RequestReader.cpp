#include <algorithm>
#include <cmath>
#include <memory>
#include <new>

#include "CanonicalPrompt.hpp"
#include "TapeWriter.hpp"

// Budget of one read: one pass over the body (validation, tape, unescaped strings), one pass of XXH3 over the prompt, no allocation.

using namespace swiftlet;

namespace {

constexpr size_t smallest_capacity = size_t(1) << 14;
/// Bodies up to here are parsed in memory that stays; it can reach 14 times this (4 of index, 8 of tape, 5/3 of strings per byte).
constexpr size_t retained_capacity = size_t(1) << 20;
constexpr size_t largest_body = size_t(64) << 20;
/// Bounds the tape of a large hostile body ("[1,1,1,…") to 64 MiB: a token costs at most two words.
constexpr uint32_t largest_token_count = uint32_t(1) << 22;
constexpr size_t deepest_nesting = 512;
/// Longer than any name an engine serves; only bodies beyond `retained_capacity` have their names cut here.
constexpr size_t longest_kept_name = 1024;

constexpr int64_t largest_max_tokens = INT32_MAX;
constexpr int64_t largest_n = 16384;

enum : uint64_t { salt_model = 1, salt_cache = 2, salt_lora = 3, salt_template = 4 };

struct Places {
    PromptPlaces prompt;
    size_t model = 0, user = 0, cache_salt = 0, lora = 0, lora_name = 0, lora_path = 0;
    size_t stream = 0, stream_options = 0, temperature = 0, seed = 0, n = 0;
    size_t max_tokens = 0, max_completion_tokens = 0, max_output_tokens = 0;
    /// What a chat template makes of the messages, mostly at the prompt's beginning.
    size_t chat_template = 0, chat_template_kwargs = 0, documents = 0, reasoning_effort = 0, reasoning = 0;
    size_t prompt_logprobs = 0, logprobs = 0, logprob_start = 0, echo = 0, cache_prompt = 0;
};

void place(Places &places, swl_text key, size_t at) noexcept {
    const auto take = [&](const auto &literal, size_t &slot) {
        if (is(key, literal)) { slot = at; }
    };
    switch (key.length) {
        case 1: return take("n", places.n);
        case 4: take("user", places.user), take("seed", places.seed), take("lora", places.lora);
            take("echo", places.echo);
            return;
        case 5: take("model", places.model), take("tools", places.prompt.tools), take("input", places.prompt.input); return;
        case 6:
            take("stream", places.stream), take("prompt", places.prompt.prompt), take("system", places.prompt.system);
            return;
        case 8: take("messages", places.prompt.messages), take("logprobs", places.logprobs); return;
        case 9:
            take("functions", places.prompt.functions), take("lora_name", places.lora_name);
            take("lora_path", places.lora_path), take("documents", places.documents);
            take("reasoning", places.reasoning);
            return;
        case 10: take("max_tokens", places.max_tokens), take("cache_salt", places.cache_salt); return;
        case 11: return take("temperature", places.temperature);
        case 12: take("instructions", places.prompt.instructions), take("cache_prompt", places.cache_prompt); return;
        case 13: return take("chat_template", places.chat_template);
        case 14: return take("stream_options", places.stream_options);
        case 15: return take("prompt_logprobs", places.prompt_logprobs);
        case 16: return take("reasoning_effort", places.reasoning_effort);
        case 17: take("max_output_tokens", places.max_output_tokens), take("logprob_start_len", places.logprob_start); return;
        case 20: return take("chat_template_kwargs", places.chat_template_kwargs);
        case 21: return take("max_completion_tokens", places.max_completion_tokens);
        default: return;
    }
}

bool integer(const Tape &tape, size_t at, int64_t &result) noexcept {
    if (at == 0) { return false; }
    const uint64_t bits = tape.tag(at) == 'l' || tape.tag(at) == 'd' ? tape.number_bits(at) : 0;
    if (tape.tag(at) == 'l') {
        result = int64_t(bits);
        return true;
    }
    // Engines take 5.0 for 5.
    if (tape.tag(at) != 'd') { return false; }
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (!(std::fabs(value) <= 9007199254740992.0) || std::trunc(value) != value) { return false; }
    result = int64_t(value);
    return true;
}

bool real(const Tape &tape, size_t at, double &result) noexcept {
    if (at == 0) { return false; }
    const uint64_t bits = tape.tag(at) == 'l' || tape.tag(at) == 'u' || tape.tag(at) == 'd' ? tape.number_bits(at) : 0;
    switch (tape.tag(at)) {
        case 'd': std::memcpy(&result, &bits, sizeof result); return true;
        case 'l': result = double(int64_t(bits)); return true;
        case 'u': result = double(bits); return true;
        default: return false;
    }
}

bool truth(const Tape &tape, size_t at) noexcept {
    int64_t number = 0;
    return at != 0 && (tape.tag(at) == 't' || (integer(tape, at, number) && number == 1));
}

swl_text text(const Tape &tape, size_t at) noexcept {
    return at != 0 && tape.is_text(at) ? tape.text(at) : swl_text{nullptr, 0};
}

void read_numbers(const Tape &tape, const Places &places, swl_request_facts &facts) noexcept {
    for (const size_t at : {places.max_completion_tokens, places.max_tokens, places.max_output_tokens}) {
        int64_t count;
        if (!integer(tape, at, count)) { continue; }
        facts.max_tokens = count < 0 ? 0 : (count > largest_max_tokens ? largest_max_tokens : count);
        facts.has_max_tokens = true;
        break;
    }
    if (!integer(tape, places.n, facts.n) || facts.n < 1) { facts.n = 1; }
    if (facts.n > largest_n) { facts.n = largest_n; }
    facts.has_seed = integer(tape, places.seed, facts.seed);
    facts.has_temperature = real(tape, places.temperature, facts.temperature);
    facts.stream = truth(tape, places.stream);
    if (places.stream_options != 0 && tape.tag(places.stream_options) == '{') {
        tape.each_member(places.stream_options, [&](swl_text key, size_t at) {
            if (is(key, "include_usage")) { facts.include_usage = truth(tape, at); }
        });
    }
}

/// Whether the engine computes the prompt anew whatever it holds: for the probabilities of the prompt's own tokens (vLLM's field, that of
/// completions with `echo`, SGLang's), or because it is told to (llama.cpp).
bool skips_cache(const Tape &tape, const Places &places) noexcept {
    const auto asks = [&](size_t at) {
        int64_t number = -1;
        return at != 0 && (tape.tag(at) == 't' || (integer(tape, at, number) && number >= 0));
    };
    return asks(places.prompt_logprobs) || (truth(tape, places.echo) && asks(places.logprobs)) || asks(places.logprob_start)
        || (places.cache_prompt != 0 && tape.tag(places.cache_prompt) == 'f');
}

/// A field whose value somebody wants hashed.
struct Watch {
    uint8_t name[swl_watched_name_bytes];
    size_t length = 0;

    bool is(swl_text key, size_t from, size_t to) const noexcept {
        return key.length == to - from && std::memcmp(key.bytes, name + from, to - from) == 0;
    }

    /// 0 when there is nothing to hash.
    uint64_t hash(const Tape &tape) const noexcept {
        const auto *dot = static_cast<const uint8_t *>(std::memchr(name, '.', length));
        const size_t head = dot == nullptr ? length : size_t(dot - name);
        size_t place = 0, parent = 0;
        tape.each_member(1, [&](swl_text key, size_t at) {
            if (is(key, 0, length)) { place = at; } else if (dot != nullptr && is(key, 0, head)) { parent = at; }
        });
        if (place == 0 && parent != 0 && tape.tag(parent) == '{') {
            tape.each_member(parent, [&](swl_text key, size_t at) { if (is(key, head + 1, length)) { place = at; } });
        }
        if (place == 0) { return 0; }
        if (tape.is_text(place)) {
            const swl_text value = tape.text(place);
            return value.length == 0 ? 0 : XXH3_64bits(value.bytes, value.length) | 1;
        }
        if (tape.tag(place) != 'l' && tape.tag(place) != 'u') { return 0; }
        const uint64_t bits = tape.number_bits(place);
        return XXH3_64bits(&bits, sizeof bits) | 1;
    }
};

void read_document(
    const Tape &tape, const Watch *watches, size_t watch_count, swl_prompt_hasher &hasher, swl_request_facts &facts
) noexcept {
    facts.is_json = true;
    if (tape.tag(1) != '{') { return; }
    Places places;
    tape.each_member(1, [&](swl_text key, size_t at) { place(places, key, at); });
    read_numbers(tape, places, facts);
    for (size_t index = 0; index < watch_count; index += 1) { facts.watched[index] = watches[index].hash(tape); }
    facts.model = text(tape, places.model);
    facts.user = text(tape, places.user);
    facts.cache_salt = text(tape, places.cache_salt);

    swl_prompt_hasher_salt(&hasher, salt_model, facts.model.bytes, facts.model.length);
    if (facts.cache_salt.length != 0) {
        swl_prompt_hasher_salt(&hasher, salt_cache, facts.cache_salt.bytes, facts.cache_salt.length);
    }
    for (const size_t at : {places.lora, places.lora_name, places.lora_path}) {
        if (at == 0 || tape.tag(at) == 'n') { continue; }
        const uint64_t digest = CanonicalPrompt::digest(tape, at);
        swl_prompt_hasher_salt(&hasher, salt_lora, &digest, sizeof digest);
    }
    for (const size_t at : {places.chat_template, places.chat_template_kwargs, places.documents, places.reasoning_effort, places.reasoning}) {
        if (at == 0 || tape.tag(at) == 'n') { continue; }
        const uint64_t digest = CanonicalPrompt::digest(tape, at);
        swl_prompt_hasher_salt(&hasher, salt_template, &digest, sizeof digest);
    }
    facts.skips_cache = skips_cache(tape, places);
    const PromptCounts counts = CanonicalPrompt(tape, hasher).write(places.prompt);
    facts.prompts = counts.prompts;
    facts.prompt_digest = counts.digest;
    facts.former_turn_digest = counts.former_turn;
    // What else there was would show in the length.
    if (hasher.total_bytes == counts.tokens * sizeof(uint32_t) + counts.batched) { facts.prompt_tokens = int64_t(counts.tokens); }
}

size_t rounded_capacity(size_t length) noexcept {
    size_t capacity = smallest_capacity;
    while (capacity < length) { capacity *= 2; }
    return capacity;
}

/// Nearly always one pass of our own; what that declines simdjson reads, its two stages apart, so that the tape is bounded between them.
bool parse(simdjson::dom::parser &parser, bool library_only, const uint8_t *body, size_t length) noexcept {
    auto &document = parser.doc;
    if (document.capacity() < length && document.allocate(rounded_capacity(length)) != simdjson::SUCCESS) { return false; }
    // A word of the tape stands for two of simdjson's tokens at most, so that both passes keep the same bound; the rest is what
    // `document::allocate` gives.
    const size_t most_words = std::min<size_t>(document.capacity() + 3, largest_token_count / 2);
    const TapeRoom room{document.tape.get(), most_words, document.string_buf.get(), 5 * document.capacity() / 3 + simdjson::SIMDJSON_PADDING};
    if (!library_only && write_tape(body, length, room)) { return true; }
    if (parser.capacity() < length && parser.allocate(rounded_capacity(length), deepest_nesting) != simdjson::SUCCESS) { return false; }
    if (parser.implementation->stage1(body, length, simdjson::stage1_mode::regular) != simdjson::SUCCESS) { return false; }
    if (parser.implementation->n_structural_indexes > largest_token_count) { return false; }
    return parser.implementation->stage2(document) == simdjson::SUCCESS;
}

}  // namespace

struct swl_request_reader {
    simdjson::dom::parser parser;
    bool library_only;
    uint8_t names[3][longest_kept_name];
    Watch watches[swl_watched_fields];
    size_t watch_count = 0;

    void keep(swl_text &text, uint8_t (&name)[longest_kept_name]) noexcept {
        if (text.bytes == nullptr) { return; }
        text.length = text.length < longest_kept_name ? text.length : longest_kept_name;
        std::memcpy(name, text.bytes, text.length);
        text.bytes = name;
    }
};

size_t swl_request_padding(void) { return simdjson::SIMDJSON_PADDING; }

swl_request_reader *swl_request_reader_create(bool library_only) {
    auto *reader = new (std::nothrow) swl_request_reader;
    if (reader != nullptr) { reader->library_only = library_only; }
    return reader;
}

void swl_request_reader_destroy(swl_request_reader *reader) { delete reader; }

bool swl_request_reader_watch(swl_request_reader *reader, const uint8_t *name, size_t length) {
    if (reader->watch_count == swl_watched_fields || length == 0 || length > swl_watched_name_bytes) { return false; }
    Watch &watch = reader->watches[reader->watch_count];
    std::memcpy(watch.name, name, length);
    watch.length = length;
    reader->watch_count += 1;
    return true;
}

void swl_request_reader_read(
    swl_request_reader *reader, const uint8_t *body, size_t length, uint64_t seed, swl_prompt_hasher *hasher,
    swl_request_facts *facts
) {
    *facts = {};
    facts->n = 1;
    facts->prompts = 1;
    swl_prompt_hasher_begin(hasher, seed);
    if (length >= 3 && std::memcmp(body, "\xEF\xBB\xBF", 3) == 0) { body += 3, length -= 3; }
    if (length == 0 || length > largest_body) { return; }
    if (length <= retained_capacity) {
        if (!parse(reader->parser, reader->library_only, body, length)) { return; }
        const auto &document = reader->parser.doc;
        return read_document(Tape(document.tape.get(), document.string_buf.get()), reader->watches, reader->watch_count, *hasher, *facts);
    }
    // One large body must not leave its memory behind in every loop: it gets a parser of its own, and only names survive.
    simdjson::dom::parser parser(length);
    if (!parse(parser, reader->library_only, body, length)) { return; }
    read_document(Tape(parser.doc.tape.get(), parser.doc.string_buf.get()), reader->watches, reader->watch_count, *hasher, *facts);
    reader->keep(facts->model, reader->names[0]);
    reader->keep(facts->user, reader->names[1]);
    reader->keep(facts->cache_salt, reader->names[2]);
}
