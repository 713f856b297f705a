// Heads through http_parser, collected in C so that one call crosses into Swift per head.
#pragma once
#include <http_parser.h>
#include <stdint.h>
#include <string.h>

/// Offsets are from the start of the head.
typedef struct {
    uint32_t name_offset, value_offset, value_length;
    uint16_t name_length;
} swl_head_field;

enum { SWL_HEAD_OK = 0, SWL_HEAD_MALFORMED = 1, SWL_HEAD_TOO_MANY_FIELDS = 2, SWL_HEAD_NAME_TOO_LONG = 3 };

typedef struct {
    http_parser parser;
    const char *base;
    swl_head_field *fields;
    uint32_t field_capacity, field_count;
    uint32_t target_offset, target_length;
    int problem;
    int in_value;
} swl_head_parser;

static inline int swl_on_target(http_parser *parser, const char *at, size_t length) {
    swl_head_parser *self = (swl_head_parser *)parser->data;
    if (self->target_length == 0) self->target_offset = (uint32_t)(at - self->base);
    self->target_length += (uint32_t)length;
    return 0;
}
static inline int swl_on_field(http_parser *parser, const char *at, size_t length) {
    swl_head_parser *self = (swl_head_parser *)parser->data;
    if (self->field_count == 0 || self->in_value) {
        if (self->field_count == self->field_capacity) {
            self->problem = SWL_HEAD_TOO_MANY_FIELDS;
            return 1;
        }
        swl_head_field *field = &self->fields[self->field_count++];
        field->name_offset = (uint32_t)(at - self->base);
        field->name_length = 0;
        field->value_offset = field->name_offset;
        field->value_length = 0;
        self->in_value = 0;
    }
    swl_head_field *field = &self->fields[self->field_count - 1];
    if (field->name_length + length > 1024) {
        self->problem = SWL_HEAD_NAME_TOO_LONG;
        return 1;
    }
    field->name_length += (uint16_t)length;
    return 0;
}
static inline int swl_on_value(http_parser *parser, const char *at, size_t length) {
    swl_head_parser *self = (swl_head_parser *)parser->data;
    swl_head_field *field = &self->fields[self->field_count - 1];
    if (!self->in_value) {
        field->value_offset = (uint32_t)(at - self->base);
        self->in_value = 1;
    }
    field->value_length += (uint32_t)length;
    return 0;
}

static const http_parser_settings swl_head_settings = {
    .on_url = swl_on_target, .on_header_field = swl_on_field, .on_header_value = swl_on_value};

/// RFC 9110, 5.6.2: tchar.
static const unsigned char swl_token_bytes[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1, ['^'] = 1,
    ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1};

/// What http_parser without its strict mode lets pass in a start line: any letters for those of HTTP, a tab in the target, and more
/// than one blank between its parts.
static inline int swl_start_line_is_strict(const swl_head_parser *self, int type, const char *bytes, size_t length) {
    const char *version = bytes, *end = bytes + length;
    if (type == HTTP_REQUEST) {
        const char *target = bytes + self->target_offset;
        if (memchr(target, '\t', self->target_length)) return 0;
        const char *blank = (const char *)memchr(bytes, ' ', length);
        if (!blank || blank + 1 != target) return 0;
        version = target + self->target_length + 1;
    }
    return end - version >= 5 && memcmp(version, "HTTP/", 5) == 0;
}

/// Parses one head of exactly `length` bytes, blank line included. `type` is HTTP_REQUEST or HTTP_RESPONSE.
static inline int swl_parse_head(swl_head_parser *self, int type, const char *bytes, size_t length) {
    http_parser_init(&self->parser, (enum http_parser_type)type);
    self->parser.data = self;
    self->base = bytes;
    self->field_count = 0;
    self->target_offset = self->target_length = 0;
    self->problem = SWL_HEAD_OK;
    self->in_value = 0;
    // The last byte completes the message when there is no body; the parser then wants a new one, which is of no interest.
    size_t taken = http_parser_execute(&self->parser, &swl_head_settings, bytes, length);
    if (self->problem != SWL_HEAD_OK) return self->problem;
    if (self->parser.http_errno != HPE_OK || taken != length) return SWL_HEAD_MALFORMED;
    if (!swl_start_line_is_strict(self, type, bytes, length)) return SWL_HEAD_MALFORMED;
    // Debian builds http_parser without its strict mode: names are checked as tokens (RFC 9110, 5.6.2) here, and the optional
    // white space after a value (RFC 9112, 5) is cut off.
    for (uint32_t index = 0; index < self->field_count; index++) {
        swl_head_field *field = &self->fields[index];
        for (uint32_t at = 0; at < field->name_length; at++)
            if (!swl_token_bytes[(unsigned char)bytes[field->name_offset + at]]) return SWL_HEAD_MALFORMED;
        if (field->name_length == 0) return SWL_HEAD_MALFORMED;
        while (field->value_length > 0) {
            char last = bytes[field->value_offset + field->value_length - 1];
            if (last != ' ' && last != '\t') break;
            field->value_length--;
        }
    }
    return SWL_HEAD_OK;
}

/// What http_parser lets pass and RFC 9112 does not: bare CR or LF (2.2), obs-fold (5.2), control bytes in values (5.5 of RFC 9110).
/// Returns the length of the head with its blank line, 0 when the blank line has not come, -1 when the bytes are not a head.
static inline int64_t swl_measure_head(const char *bytes, size_t length, size_t from) {
    const char *cursor = bytes + from, *end = bytes + length;
    for (;;) {
        const char *newline = (const char *)memchr(cursor, '\n', (size_t)(end - cursor));
        if (!newline) return 0;
        if (newline == bytes || newline[-1] != '\r') return -1;
        if (newline - bytes >= 3 && newline[-2] == '\n') return newline + 1 - bytes;
        cursor = newline + 1;
    }
}
static inline int swl_head_is_strict(const char *bytes, size_t length) {
    const unsigned char *at = (const unsigned char *)bytes, *end = at + length;
    for (; at < end; at++) {
        unsigned char byte = *at;
        if (byte >= 0x20 && byte != 0x7f) continue;
        if (byte == '\t') {
            if (at > (const unsigned char *)bytes && at[-1] == '\n') return 0;
            continue;
        }
        if (byte == '\r' && at + 1 < end && at[1] == '\n') {
            if (at + 2 < end && at[2] == ' ') return 0;
            at++;
            continue;
        }
        return 0;
    }
    return 1;
}
