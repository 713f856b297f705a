// http_parser, collected in C so that a test reads a head in one call.
#pragma once
#include <http_parser.h>
#include <stdint.h>
#include <string.h>

/// Offsets are from the start of the head.
typedef struct {
    uint32_t name_offset, name_length, value_offset, value_length;
} swl_head_field;

enum { SWL_HEAD_FIELDS = 128 };

typedef struct {
    http_parser parser;
    const char *base;
    swl_head_field fields[SWL_HEAD_FIELDS];
    uint32_t field_count, target_offset, target_length;
    int in_value;
} swl_head_reading;

static inline int swl_on_target(http_parser *parser, const char *at, size_t length) {
    swl_head_reading *self = (swl_head_reading *)parser->data;
    if (self->target_length == 0) self->target_offset = (uint32_t)(at - self->base);
    self->target_length += (uint32_t)length;
    return 0;
}
static inline int swl_on_field(http_parser *parser, const char *at, size_t length) {
    swl_head_reading *self = (swl_head_reading *)parser->data;
    if (self->field_count == 0 || self->in_value) {
        if (self->field_count == SWL_HEAD_FIELDS) return 1;
        swl_head_field fresh = {(uint32_t)(at - self->base), 0, (uint32_t)(at - self->base), 0};
        self->fields[self->field_count++] = fresh;
        self->in_value = 0;
    }
    self->fields[self->field_count - 1].name_length += (uint32_t)length;
    return 0;
}
static inline int swl_on_value(http_parser *parser, const char *at, size_t length) {
    swl_head_reading *self = (swl_head_reading *)parser->data;
    swl_head_field *field = &self->fields[self->field_count - 1];
    if (!self->in_value) field->value_offset = (uint32_t)(at - self->base);
    self->in_value = 1;
    field->value_length += (uint32_t)length;
    return 0;
}
static inline int swl_on_headers_complete(http_parser *parser) {
    http_parser_pause(parser, 1);
    return 0;
}

/// Reads one head of exactly `length` bytes. `type` is HTTP_REQUEST or HTTP_RESPONSE. Returns whether http_parser takes it.
static inline int swl_read_head(swl_head_reading *self, int type, const char *bytes, size_t length) {
    static const http_parser_settings settings = {.on_url = swl_on_target,
                                                  .on_header_field = swl_on_field,
                                                  .on_header_value = swl_on_value,
                                                  .on_headers_complete = swl_on_headers_complete};
    memset(self, 0, sizeof *self);
    http_parser_init(&self->parser, (enum http_parser_type)type);
    self->parser.data = self;
    self->base = bytes;
    http_parser_execute(&self->parser, &settings, bytes, length);
    return self->parser.http_errno == HPE_PAUSED;
}
