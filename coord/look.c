/* What an operator asks about one transaction that is at work here. */
#include "coord/internal.h"

bool coord_look(const struct coord *coord, const struct txn_name *name, struct coord_view *out)
{
    const struct coord_tx *tx = coord__find(coord, name);
    if (tx == NULL) {
        return false;
    }
    *out = (struct coord_view){
        .purpose = tx->machine.purpose, .state = tx->machine.state, .count = tx->machine.count};
    for (uint32_t i = 0; i < tx->machine.count; i++) {
        out->uids[i] = tx->uids[i];
        out->parts[i] = tx->machine.parts[i];
        out->tries[i] = tx->legs[i].tries;
    }
    return true;
}
