#include "TapeWriter.hpp"

#include <cstring>

#define SIMDJSON_EXCEPTIONS 0
#include <simdjson.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Why beside simdjson: a prompt is one long string. simdjson finds the structure of every 64 bytes first and copies strings in a second
// pass, 1.8 instructions a byte together; here plain text costs half of one, since inside one nothing but a quote, a backslash or a control
// character matters.

namespace swiftlet {

#if defined(__x86_64__)

namespace {

constexpr unsigned deepest_nesting = 64;
/// What one value may write before the next one asks for room: a key, a number's two words, every open container's end, the root's.
constexpr size_t words_in_reserve = 4 + deepest_nesting;
/// Read and written at once within a string; what is beyond its end is written over.
constexpr size_t stride = 64;
/// Integers of this many digits cannot overflow 64 bits, and a mantissa below 2^53 over a power of ten up to 10^22 is divided exactly
/// (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990).
constexpr size_t most_digits = 18;
constexpr uint64_t largest_mantissa = uint64_t(1) << 53;
constexpr double powers_of_ten[most_digits + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8, 1e9,
                                                   1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18};

constexpr bool is_space(uint8_t byte) noexcept { return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t'; }
constexpr bool is_digit(uint8_t byte) noexcept { return uint8_t(byte - '0') < 10; }

struct EscapeTables {
    /// What an escape of one letter stands for; 0 where there is none.
    uint8_t letters[256] = {};
    /// The value of a hexadecimal digit; -1 where there is none.
    int8_t digits[256] = {};

    constexpr EscapeTables() noexcept {
        for (const char same : {'"', '\\', '/'}) { letters[uint8_t(same)] = uint8_t(same); }
        letters['b'] = '\b', letters['f'] = '\f', letters['n'] = '\n', letters['r'] = '\r', letters['t'] = '\t';
        for (int byte = 0; byte < 256; byte += 1) { digits[byte] = -1; }
        for (int value = 0; value < 10; value += 1) { digits['0' + value] = int8_t(value); }
        for (int value = 10; value < 16; value += 1) { digits['a' + value - 10] = digits['A' + value - 10] = int8_t(value); }
    }
};
constexpr EscapeTables escapes;

/// The value of four hexadecimal digits, or one beyond 0xFFFF.
uint32_t hexadecimal(const uint8_t *from) noexcept {
    const auto digit = [&](size_t index) { return int32_t(escapes.digits[from[index]]); };
    return uint32_t(digit(0) * 4096 | digit(1) * 256 | digit(2) * 16 | digit(3));
}

uint8_t *write_utf8(uint32_t point, uint8_t *out) noexcept {
    if (point < 0x80) {
        *out++ = uint8_t(point);
    } else if (point < 0x800) {
        *out++ = uint8_t(0xC0 | point >> 6);
        *out++ = uint8_t(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        *out++ = uint8_t(0xE0 | point >> 12);
        *out++ = uint8_t(0x80 | (point >> 6 & 0x3F));
        *out++ = uint8_t(0x80 | (point & 0x3F));
    } else {
        *out++ = uint8_t(0xF0 | point >> 18);
        *out++ = uint8_t(0x80 | (point >> 12 & 0x3F));
        *out++ = uint8_t(0x80 | (point >> 6 & 0x3F));
        *out++ = uint8_t(0x80 | (point & 0x3F));
    }
    return out;
}

#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)

class TapeWriter {
  public:
    TapeWriter(const uint8_t *body, size_t length, const TapeRoom &room) noexcept
        : at_(body), end_(body + length), words_(room.words), words_end_(room.words + room.most_words), word_(room.words + 1),
          texts_(room.texts), texts_end_(room.texts + room.most_text_bytes), text_(room.texts) {}

    bool document() noexcept {
        if (!value(0)) { return false; }
        skip_space();
        if (at_ != end_) { return false; }
        put('r', 0);
        words_[0] = tagged('r', size_t(word_ - words_));
        return true;
    }

    /// Whether a byte beyond ASCII was met, so that UTF-8 is still to be validated.
    bool is_beyond_ascii() const noexcept { return _mm256_movemask_epi8(seen_) != 0; }

  private:
    static uint64_t tagged(char tag, uint64_t payload) noexcept { return uint64_t(uint8_t(tag)) << 56 | payload; }
    void put(char tag, uint64_t payload) noexcept { *word_++ = tagged(tag, payload); }

    void skip_space() noexcept {
        while (at_ < end_ && is_space(*at_)) { at_ += 1; }
    }

    bool value(unsigned depth) noexcept {
        skip_space();
        if (at_ >= end_ || size_t(words_end_ - word_) < words_in_reserve) { return false; }
        switch (*at_) {
            case '"': return text();
            case '{': return depth < deepest_nesting && object(depth + 1);
            case '[': return depth < deepest_nesting && array(depth + 1);
            case 't': return literal("true", 't');
            case 'f': return literal("false", 'f');
            case 'n': return literal("null", 'n');
            default: return number();
        }
    }

    bool object(unsigned depth) noexcept {
        uint64_t *const opening = word_++;
        at_ += 1;
        skip_space();
        if (*at_ != '}') {
            for (;;) {
                if (at_ >= end_ || *at_ != '"' || !text()) { return false; }
                skip_space();
                if (*at_ != ':') { return false; }
                at_ += 1;
                if (!value(depth)) { return false; }
                skip_space();
                if (*at_ != ',') { break; }
                at_ += 1;
                skip_space();
            }
        }
        return close(opening, '{', '}');
    }

    bool array(unsigned depth) noexcept {
        uint64_t *const opening = word_++;
        at_ += 1;
        skip_space();
        if (*at_ != ']') {
            for (;;) {
                if (!value(depth)) { return false; }
                skip_space();
                if (*at_ != ',') { break; }
                at_ += 1;
            }
        }
        return close(opening, '[', ']');
    }

    bool close(uint64_t *opening, char open, char closing) noexcept {
        if (at_ >= end_ || *at_ != uint8_t(closing)) { return false; }
        at_ += 1;
        put(closing, uint64_t(opening - words_));
        *opening = tagged(open, uint64_t(word_ - words_));
        return true;
    }

    /// What follows is looked at by whoever called: only space, a comma or a closing bracket may.
    template <size_t size>
    bool literal(const char (&name)[size], char tag) noexcept {
        if (std::memcmp(at_, name, size - 1) != 0) { return false; }
        at_ += size - 1;
        put(tag, 0);
        return true;
    }

    bool number() noexcept {
        const bool is_negative = *at_ == '-';
        const uint8_t *const first = at_ + is_negative;
        const uint8_t *next = first;
        uint64_t digits = 0;
        for (; is_digit(*next) && next - first <= ptrdiff_t(most_digits); next += 1) { digits = digits * 10 + (*next - '0'); }
        const size_t whole = size_t(next - first);
        if (whole == 0 || whole > most_digits || (whole > 1 && *first == '0')) { return false; }
        if (*next == 'e' || *next == 'E') { return false; }
        if (*next != '.') {
            if (is_negative && digits == 0) { return false; }
            at_ = next;
            put('l', 0);
            *word_++ = is_negative ? ~digits + 1 : digits;
            return true;
        }
        const uint8_t *const fraction = next += 1;
        for (; is_digit(*next) && next - fraction <= ptrdiff_t(most_digits - whole); next += 1) { digits = digits * 10 + (*next - '0'); }
        const size_t decimals = size_t(next - fraction);
        if (decimals == 0 || whole + decimals > most_digits || digits > largest_mantissa) { return false; }
        if (*next == 'e' || *next == 'E') { return false; }
        const double magnitude = double(digits) / powers_of_ten[decimals];
        const double result = is_negative ? -magnitude : magnitude;
        at_ = next;
        put('d', 0);
        std::memcpy(word_++, &result, sizeof result);
        return true;
    }

    /// An entry: length in 4 bytes, the unescaped bytes, a zero.
    bool text() noexcept {
        // A text is no longer than what stands for it, so that the rest of the body bounds it.
        if (size_t(texts_end_ - text_) < size_t(end_ - at_) + sizeof(uint32_t) + 1 + stride) { return false; }
        put('"', uint64_t(text_ - texts_));
        const uint8_t *from = at_ + 1;
        uint8_t *const entry = text_ + sizeof(uint32_t);
        uint8_t *to = entry;
        // A local: the bytes stored below might else be this object's.
        __m256i seen = seen_;
        // Most texts are keys and names.
        const uint32_t early = uint32_t(_mm256_movemask_epi8(stops_in(copy(from, to, seen))));
        const bool is_short = early != 0 && from[__builtin_ctz(early)] == '"';
        if (is_short) { from += __builtin_ctz(early), to += __builtin_ctz(early); }
        if (!is_short && !long_text(from, to, seen)) { return false; }
        if (from >= end_) { return false; }
        seen_ = seen;
        at_ = from + 1;
        const uint32_t length = uint32_t(to - entry);
        std::memcpy(text_, &length, sizeof length);
        *to = 0;
        text_ = to + 1;
        return true;
    }

    /// Reads up to the closing quote.
    ///
    /// Where a stride's escapes are is found before any of them is read, and the next stride begins where it does whatever they are: were each
    /// search to begin behind the last escape, it would have to wait for that one's end.
    bool long_text(const uint8_t *&from, uint8_t *&to, __m256i &seen) const noexcept {
        while (from < end_) {
            const __m256i low = copy(from, to, seen);
            const __m256i high = copy(from + sizeof low, to + sizeof low, seen);
            uint64_t stops = uint32_t(_mm256_movemask_epi8(stops_in(low))) | uint64_t(uint32_t(_mm256_movemask_epi8(stops_in(high)))) << 32;
            if (stops == 0) {
                from += stride;
                to += stride;
                continue;
            }
            // What is behind the body may look like anything.
            if (size_t(end_ - from) < stride) { stops &= (uint64_t(1) << (end_ - from)) - 1; }
            size_t done = 0;
            while (stops != 0) {
                const size_t next = size_t(__builtin_ctzll(stops));
                // What lies between the last escape and this one.
                move(from + done, to);
                to += next - done;
                const uint8_t *at = from + next;
                if (*at == '"') {
                    from = at;
                    return true;
                }
                if (*at != '\\' || !escape(at, to) || at >= end_) { return false; }
                done = size_t(at - from);
                stops = done < stride ? stops >> done << done : 0;
            }
            if (done >= stride) {
                from += done;
                continue;
            }
            move(from + done, to);
            to += stride - done;
            from += stride;
        }
        return false;
    }

    static void move(const uint8_t *from, uint8_t *to) noexcept {
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
        const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + sizeof low));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), low);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + sizeof low), high);
    }

    static __m256i copy(const uint8_t *from, uint8_t *to, __m256i &seen) noexcept {
        const __m256i block = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), block);
        seen = _mm256_or_si256(seen, block);
        return block;
    }

    /// Has 0xFF where the block has a quote, a backslash or a control character.
    static __m256i stops_in(__m256i block) noexcept {
        // Of the 16 low halves of a byte, that of a quote and that of a backslash select them; what the others select ends otherwise.
        const __m256i specials = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, '"', 0, 0, 0, 0, 0, 0, 0, 0, 0, '\\', 0, 0, 0));
        const __m256i special = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(specials, block), block);
        const __m256i control = _mm256_cmpeq_epi8(_mm256_min_epu8(block, _mm256_set1_epi8(0x1F)), block);
        return _mm256_or_si256(special, control);
    }

    static bool escape(const uint8_t *&from, uint8_t *&to) noexcept {
        if (from[1] != 'u') {
            const uint8_t byte = escapes.letters[from[1]];
            *to++ = byte;
            from += 2;
            return byte != 0;
        }
        uint32_t point = hexadecimal(from + 2);
        from += 6;
        if (point >= 0xD800 && point < 0xDC00 && from[0] == '\\' && from[1] == 'u') {
            const uint32_t low = hexadecimal(from + 2);
            if (low < 0xDC00 || low > 0xDFFF) { return false; }
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
            from += 6;
        } else if (point > 0xFFFF || (point >= 0xD800 && point < 0xE000)) {
            return false;
        }
        to = write_utf8(point, to);
        return true;
    }

    const uint8_t *at_;
    const uint8_t *const end_;
    uint64_t *const words_;
    const uint64_t *const words_end_;
    uint64_t *word_;
    uint8_t *const texts_;
    const uint8_t *const texts_end_;
    uint8_t *text_;
    __m256i seen_ = _mm256_setzero_si256();
};

bool write_with_avx2(const uint8_t *body, size_t length, const TapeRoom &room) noexcept {
    if (room.most_words < words_in_reserve) { return false; }
    TapeWriter writer(body, length, room);
    if (!writer.document()) { return false; }
    return !writer.is_beyond_ascii() || simdjson::validate_utf8(reinterpret_cast<const char *>(body), length);
}

#pragma clang attribute pop

bool has_avx2() noexcept {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2");
}

const bool writes_with_avx2 = has_avx2();

}  // namespace

bool write_tape(const uint8_t *body, size_t length, const TapeRoom &room) noexcept {
    return writes_with_avx2 && write_with_avx2(body, length, room);
}

#else

bool write_tape(const uint8_t *, size_t, const TapeRoom &) noexcept { return false; }

#endif

}  // namespace swiftlet
