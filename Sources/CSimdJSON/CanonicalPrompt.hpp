#pragma once
#include "PromptHasher.hpp"
#include "Tape.hpp"

namespace swiftlet {

/// Where the parts of a prompt stand on the tape; 0 is absent.
struct PromptPlaces {
    size_t tools = 0, functions = 0, instructions = 0, system = 0, messages = 0, prompt = 0, input = 0;
};

struct PromptCounts {
    /// One, or those of a batch.
    uint32_t prompts;
    /// Those that `prompt` or `input` hold, each behind a marker of one byte.
    uint32_t batched;
    uint64_t tokens;
    /// Of a conversation: digests of all of it, and of what it was before its last answer; 0: unknown, or there was none.
    uint64_t digest;
    uint64_t former_turn;
};

/// Writes a prompt in one fixed order, whatever the order of keys: tools, then instructions, then messages, as chat
/// templates do. Two requests share exactly as many leading bytes here as they share leading parts, and a conversation's next turn
/// begins with all bytes of the last: every part opens with a marker and none ends with one.
class CanonicalPrompt {
  public:
    CanonicalPrompt(const Tape &tape, swl_prompt_hasher &hasher) noexcept : tape_(tape), writer_(hasher) {}

    PromptCounts write(const PromptPlaces &places) noexcept;

    /// A fingerprint of any value, for what stands outside the prompt's text.
    static uint64_t digest(const Tape &tape, size_t at) noexcept;

  private:
    void tools(size_t at) noexcept;
    void system_message(size_t at) noexcept;
    void conversation(size_t at) noexcept;
    void message(size_t at) noexcept;
    void content(size_t at) noexcept;
    void part(size_t at, bool is_first) noexcept;
    void completion_prompt(size_t at) noexcept;
    void input(size_t at) noexcept;
    void tree(size_t at) noexcept;

    void token(size_t at) noexcept;
    void medium(uint64_t digest) noexcept;

    const Tape &tape_;
    PromptWriter writer_;
    uint32_t media_ = 0;
    uint32_t batched_ = 0;
    uint64_t tokens_ = 0;
    uint64_t former_turn_ = 0;
    bool has_roles_ = false;
    bool answers_ = false;
};

}  // namespace swiftlet
