/* A program that has nothing of the source tree: it links, and what needs no cluster works. */
#include <stdio.h>
#include <string.h>

#include <cairn/cairn.h>

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "version") == 0) {
        puts(cairn_version());
        return 0;
    }
    cairn_ptr ptr;
    char text[CAIRN_PTR_TEXT_BYTES];
    if (cairn_ptr_parse("2.1.0000000041", &ptr) != 0) {
        return 1;
    }
    cairn_ptr_format(ptr, text, sizeof text);
    cairn_client *client = NULL;
    cairn_client_opts opts;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.ca_file = opts.cert_file = opts.key_file = "/nonexistent";
    int rv = cairn_connect("localhost:1", &opts, &client);
    return strcmp(text, "2.1.0000000041") == 0 && rv != 0 && client == NULL &&
                   strlen(cairn_errormsg()) > 0
               ? 0
               : 2;
}
