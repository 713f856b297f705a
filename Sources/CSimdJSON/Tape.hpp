#pragma once
// simdjson's DOM is a flat tape of 64-bit words (simdjson, doc/tape.md): a tag in the top byte, a payload below. Reading it
// directly is what makes duplicate keys and any key order free: a member's place is one number, and the last one wins.
#define SIMDJSON_EXCEPTIONS 0
#include <simdjson.h>

#include "CSimdJSON.h"

namespace swiftlet {

/// A view of one parsed document. Places are word indices; 0 is the root word, so it doubles as "absent".
class Tape {
  public:
    Tape(const uint64_t *words, const uint8_t *strings) noexcept : words_(words), strings_(strings) {}

    char tag(size_t at) const noexcept { return char(words_[at] >> 56); }

    /// The place after the value at `at`, skipping whole containers.
    size_t after(size_t at) const noexcept {
        switch (tag(at)) {
            case '{': case '[': return uint32_t(words_[at]);
            case 'l': case 'u': case 'd': return at + 2;
            default: return at + 1;
        }
    }

    /// The place of a container's closing word.
    size_t end(size_t container) const noexcept { return uint32_t(words_[container]) - 1; }

    swl_text text(size_t at) const noexcept {
        const uint8_t *entry = strings_ + (words_[at] & payload_mask);
        uint32_t length;
        std::memcpy(&length, entry, sizeof length);
        return {entry + sizeof length, length};
    }

    bool is_text(size_t at) const noexcept { return tag(at) == '"'; }
    uint64_t number_bits(size_t at) const noexcept { return words_[at + 1]; }
    uint64_t word(size_t at) const noexcept { return words_[at]; }

    /// Calls `body(key, place of value)` for each member, in document order.
    template <typename Body>
    void each_member(size_t object, Body body) const noexcept {
        const size_t last = end(object);
        for (size_t at = object + 1; at < last;) {
            const size_t value = at + 1;
            body(text(at), value);
            at = after(value);
        }
    }

    /// Calls `body(place)` for each element, in order.
    template <typename Body>
    void each_element(size_t array, Body body) const noexcept {
        const size_t last = end(array);
        for (size_t at = array + 1; at < last; at = after(at)) { body(at); }
    }

  private:
    static constexpr uint64_t payload_mask = 0x00FFFFFFFFFFFFFF;
    const uint64_t *words_;
    const uint8_t *strings_;
};

/// Whether `text` is exactly this literal.
template <size_t size>
inline bool is(swl_text text, const char (&literal)[size]) noexcept {
    return text.length == size - 1 && std::memcmp(text.bytes, literal, size - 1) == 0;
}

}  // namespace swiftlet
