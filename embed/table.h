/* The embedded mode's door: who links a program with it hands this table to the client
 * (client/embedded_link.c). */
#ifndef CAIRN_EMBED_TABLE_H
#define CAIRN_EMBED_TABLE_H

#include "base/embedded.h"

extern const struct embedded_ops embed_table;

#endif
