/* The 32 bytes in front of every body. struct frame_header is in rpc/rpc.h. thread: any */
#ifndef CAIRN_RPC_FRAME_H
#define CAIRN_RPC_FRAME_H

#include "rpc/rpc.h"

void frame_pack(const struct frame_header *h, uint8_t out[FRAME_HEADER_BYTES]);
/* Checks what can be checked before the body is there: ERR_TOOBIG (length over FRAME_BYTES_MAX) or
 * ERR_PROTOCOL (kind 0, flags or reserved bytes not 0); *cause then names the field. */
int frame_unpack(const uint8_t in[FRAME_HEADER_BYTES], struct frame_header *out,
                 const char **cause);

#endif
