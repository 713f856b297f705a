#include "CanonicalPrompt.hpp"

namespace swiftlet {

namespace {

// Bytes that UTF-8 never contains, so no text can imitate a border between parts.
namespace marker {
constexpr uint8_t tool = 0xFF;
constexpr uint8_t message = 0xFE;
constexpr uint8_t content = 0xFD;
constexpr uint8_t name = 0xFC;
constexpr uint8_t tool_call_id = 0xFB;
constexpr uint8_t tool_calls = 0xFA;
constexpr uint8_t part = 0xF9;
constexpr uint8_t media = 0xF8;
constexpr uint8_t prompt = 0xF7;
constexpr uint8_t object = 0xF6;
constexpr uint8_t close = 0xF5;
constexpr uint8_t array = 0xC0;
constexpr uint8_t value = 0xC1;
}  // namespace marker

/// Visits a value as a stream of markers, texts and 8-byte scalars. `cache_control` members are left out: clients of the messages
/// API move that mark from turn to turn, and it is not part of the prompt.
template <typename Sink>
void walk(const Tape &tape, size_t at, Sink &sink) noexcept {
    const size_t last = tape.after(at);
    while (at < last) {
        switch (const char tag = tape.tag(at)) {
            case '{': sink.byte(marker::object); at += 1; break;
            case '[': sink.byte(marker::array); at += 1; break;
            case '}': case ']': sink.byte(marker::close); at += 1; break;
            case '"': {
                const swl_text text = tape.text(at);
                at += 1;
                // Before an opening brace or a null, this string can only be a key, or an array's element that no prompt holds.
                if (at < last && (tape.tag(at) == '{' || tape.tag(at) == 'n') && is(text, "cache_control")) {
                    at = tape.after(at);
                    break;
                }
                sink.byte(marker::value);
                sink.text(text);
                break;
            }
            case 'l': case 'u': case 'd': sink.scalar(tag, tape.number_bits(at)); at += 2; break;
            default: sink.scalar(tag, 0); at += 1; break;
        }
    }
}

struct WriterSink {
    PromptWriter &writer;
    void byte(uint8_t byte) noexcept { writer.byte(byte); }
    void text(swl_text text) noexcept { writer.text(text); }
    void scalar(char tag, uint64_t bits) noexcept {
        writer.byte(marker::value);
        writer.byte(marker::value);
        writer.byte(uint8_t(tag));
        writer.number(bits);
    }
};

struct DigestSink {
    uint64_t digest = 0;
    void byte(uint8_t byte) noexcept { digest = XXH3_64bits_withSeed(&byte, 1, digest); }
    void text(swl_text text) noexcept { digest = XXH3_64bits_withSeed(text.bytes, text.length, digest); }
    void scalar(char tag, uint64_t bits) noexcept {
        digest = XXH3_64bits_withSeed(&bits, sizeof bits, digest + uint8_t(tag));
    }
};

/// Parts whose bytes are no prompt text: megabytes of base64 would drown the estimate of the prompt's length.
bool is_media(swl_text type) noexcept {
    return is(type, "image_url") || is(type, "input_image") || is(type, "image") || is(type, "image_embeds")
        || is(type, "input_audio") || is(type, "audio_url") || is(type, "audio") || is(type, "video_url")
        || is(type, "video") || is(type, "input_file") || is(type, "file") || is(type, "document");
}

}  // namespace

PromptCounts CanonicalPrompt::write(const PromptPlaces &places) noexcept {
    tools(places.tools);
    tools(places.functions);
    system_message(places.instructions);
    system_message(places.system);
    if (places.messages != 0) { conversation(places.messages); }
    completion_prompt(places.prompt);
    input(places.input);
    return PromptCounts{batched_ > 1 ? batched_ : 1, batched_, tokens_, has_roles_ ? writer_.digest() : 0, former_turn_};
}

uint64_t CanonicalPrompt::digest(const Tape &tape, size_t at) noexcept {
    DigestSink sink;
    walk(tape, at, sink);
    return sink.digest;
}

void CanonicalPrompt::tools(size_t at) noexcept {
    if (at == 0 || tape_.tag(at) == 'n') { return; }
    const auto tool = [&](size_t place) {
        writer_.byte(marker::tool);
        tree(place);
    };
    if (tape_.tag(at) == '[') { tape_.each_element(at, tool); } else { tool(at); }
}

/// The same bytes as a first message with this role, since engines turn the one into the other.
void CanonicalPrompt::system_message(size_t at) noexcept {
    if (at == 0 || tape_.tag(at) == 'n') { return; }
    writer_.byte(marker::message);
    writer_.literal("system");
    writer_.byte(marker::content);
    content(at);
}

void CanonicalPrompt::conversation(size_t at) noexcept {
    if (tape_.tag(at) == '[') {
        tape_.each_element(at, [&](size_t place) { message(place); });
    } else if (tape_.tag(at) != 'n') {
        writer_.byte(marker::message);
        tree(at);
    }
}

void CanonicalPrompt::message(size_t at) noexcept {
    size_t role = 0, type = 0, name = 0, call_id = 0, body = 0, calls = 0, call = 0;
    if (tape_.tag(at) == '{') {
        tape_.each_member(at, [&](swl_text key, size_t value) {
            switch (key.length) {
                case 4:
                    if (is(key, "role")) { role = value; } else if (is(key, "name")) { name = value; } else if (is(key, "type")) { type = value; }
                    break;
                case 7: if (is(key, "content")) { body = value; } break;
                case 10: if (is(key, "tool_calls")) { calls = value; } break;
                case 12: if (is(key, "tool_call_id")) { call_id = value; } break;
                case 13: if (is(key, "function_call")) { call = value; } break;
                default: break;
            }
        });
    }
    // Items of /v1/responses other than messages (function calls, their outputs, reasoning) have no role.
    const bool has_role = role != 0 && tape_.is_text(role);
    const bool is_output = !has_role && type != 0 && tape_.is_text(type) && is(tape_.text(type), "function_call_output");
    const bool is_answer = has_role ? is(tape_.text(role), "assistant") : !is_output;
    // An answer may have several parts.
    if (is_answer && !answers_) { former_turn_ = writer_.digest(); }
    answers_ = is_answer;
    if (!has_role) {
        writer_.byte(marker::message);
        return tree(at);
    }
    has_roles_ = true;
    writer_.byte(marker::message);
    writer_.text(tape_.text(role));
    if (name != 0 && tape_.is_text(name)) { writer_.byte(marker::name), writer_.text(tape_.text(name)); }
    if (call_id != 0 && tape_.is_text(call_id)) { writer_.byte(marker::tool_call_id), writer_.text(tape_.text(call_id)); }
    writer_.byte(marker::content);
    if (body != 0) { content(body); }
    for (const size_t place : {calls, call}) {
        if (place != 0 && tape_.tag(place) != 'n') { writer_.byte(marker::tool_calls), tree(place); }
    }
}

void CanonicalPrompt::content(size_t at) noexcept {
    switch (tape_.tag(at)) {
        case 'n': return;
        case '"': return writer_.text(tape_.text(at));
        case '[': {
            bool is_first = true;
            tape_.each_element(at, [&](size_t place) {
                part(place, is_first);
                is_first = false;
            });
            return;
        }
        default: return tree(at);
    }
}

/// A single text part gives the bytes of a plain string, because engines render the two alike.
void CanonicalPrompt::part(size_t at, bool is_first) noexcept {
    size_t text = tape_.is_text(at) ? at : 0;
    size_t type = 0, url = 0;
    if (tape_.tag(at) == '{') {
        tape_.each_member(at, [&](swl_text key, size_t value) {
            if (is(key, "text")) { text = value; }
            else if (is(key, "type")) { type = value; }
            else if (is(key, "image_url")) { url = value; }
        });
    }
    if (url != 0 && tape_.tag(url) == '{') {
        const size_t object = url;
        url = 0;
        tape_.each_member(object, [&](swl_text key, size_t value) { if (is(key, "url")) { url = value; } });
    }
    if (url != 0 && tape_.is_text(url)) {
        const swl_text address = tape_.text(url);
        return medium(XXH3_64bits(address.bytes, address.length));
    }
    if (type != 0 && tape_.is_text(type) && is_media(tape_.text(type))) { return medium(digest(tape_, at)); }
    if (!is_first) { writer_.byte(marker::part); }
    if (text != 0 && tape_.is_text(text)) { writer_.text(tape_.text(text)); } else { tree(at); }
}

void CanonicalPrompt::completion_prompt(size_t at) noexcept {
    if (at == 0 || tape_.tag(at) == 'n') { return; }
    if (tape_.tag(at) != '[') {
        writer_.byte(marker::prompt);
        return tape_.is_text(at) ? writer_.text(tape_.text(at)) : tree(at);
    }
    const size_t last = tape_.end(at);
    bool in_tokens = false;
    for (size_t place = at + 1; place < last; place = tape_.after(place)) {
        const char tag = tape_.tag(place);
        const bool is_token = tag == 'l' || tag == 'u';
        if (!is_token || !in_tokens) { writer_.byte(marker::prompt), batched_ += 1; }
        in_tokens = is_token;
        if (is_token) { token(place); }
        else if (tag == '"') { writer_.text(tape_.text(place)); }
        else if (tag == '[') {
            tape_.each_element(place, [&](size_t inner) {
                const char kind = tape_.tag(inner);
                if (kind == 'l' || kind == 'u') { token(inner); } else { tree(inner); }
            });
        } else { tree(place); }
    }
}

/// /v1/responses: a string stands for one user message, an array holds messages and other items. /v1/embeddings: strings or token ids.
void CanonicalPrompt::input(size_t at) noexcept {
    if (at == 0) { return; }
    if (tape_.is_text(at)) {
        has_roles_ = true;
        writer_.byte(marker::message);
        writer_.literal("user");
        writer_.byte(marker::content);
        return writer_.text(tape_.text(at));
    }
    const bool holds_items = tape_.tag(at) == '[' && tape_.tag(at + 1) == '{';
    if (holds_items) { conversation(at); } else { completion_prompt(at); }
}

void CanonicalPrompt::tree(size_t at) noexcept {
    WriterSink sink{writer_};
    walk(tape_, at, sink);
}

/// An image costs an engine some 250 to 3,000 tokens, whatever its bytes are: it takes as many bytes here as a thousand tokens of text, so
/// that what it costs, and saves where it is cached, counts. A prompt of more media than anybody sends is no reason to hash without end.
void CanonicalPrompt::medium(uint64_t digest) noexcept {
    static constexpr uint8_t filling[4096 - 1 - sizeof digest] = {};
    static constexpr uint32_t most_filled = 256;
    writer_.byte(marker::media);
    writer_.number(digest);
    if (media_ == most_filled) { return; }
    media_ += 1;
    writer_.text(swl_text{filling, sizeof filling});
}

/// Four bytes a token: about what a token of text weighs, so byte-based estimates hold for both kinds of prompt.
void CanonicalPrompt::token(size_t at) noexcept {
    writer_.number(uint32_t(tape_.number_bits(at)));
    tokens_ += 1;
}

}  // namespace swiftlet
