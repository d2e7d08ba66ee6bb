#include "rpc/frame.h"

void frame_pack(const struct frame_header *h, uint8_t out[FRAME_HEADER_BYTES])
{
    store_u32(out, h->length);
    store_u16(out + 4, h->kind);
    store_u16(out + 6, h->flags);
    store_u64(out + 8, h->request_id);
    store_u32(out + 16, h->deadline_ms);
    store_u32(out + 20, 0);
    store_u64(out + 24, h->trace_id);
}

int frame_unpack(const uint8_t in[FRAME_HEADER_BYTES], struct frame_header *out, const char **cause)
{
    out->length = load_u32(in);
    out->kind = load_u16(in + 4);
    out->flags = load_u16(in + 6);
    out->request_id = load_u64(in + 8);
    out->deadline_ms = load_u32(in + 16);
    out->trace_id = load_u64(in + 24);
    if (out->length > FRAME_BYTES_MAX) {
        *cause = "frame longer than the limit of 4 MiB";
        return ERR_TOOBIG;
    }
    if (out->kind == KIND_NONE) {
        *cause = "frame of kind 0";
        return ERR_PROTOCOL;
    }
    if (out->flags != 0) {
        *cause = "unknown flags in a frame header";
        return ERR_PROTOCOL;
    }
    if (load_u32(in + 20) != 0) {
        *cause = "reserved bytes of a frame header not zero";
        return ERR_PROTOCOL;
    }
    return 0;
}
