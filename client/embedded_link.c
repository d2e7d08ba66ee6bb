/* Part of libcairn.so alone: gives the client the embedded mode's table when the library is loaded.
 * The one place where client/ knows of embed/. Programs that link the client's objects by
 * themselves (tests, the simulator) do without. */
#include "client/sdk.h"
#include "embed/table.h"

static void __attribute__((constructor)) link_embedded(void)
{
    sdk__embedded_use(&embed_table);
}
