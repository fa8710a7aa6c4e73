/*
 * mailaffinity.h: the node of a mail cluster that a user belongs to, as Dovecot's Director
 * computes it.
 *
 *     mailaffinity_cluster *cluster;
 *     size_t node;
 *     char detail[256];
 *
 *     if (mailaffinity_cluster_load(NULL, &cluster, detail, sizeof detail) != MAILAFFINITY_OK)
 *         errx(EX_CONFIG, "%s", detail);
 *     if (mailaffinity_lookup(cluster, user, strlen(user), NULL, &node) == MAILAFFINITY_OK)
 *         puts(mailaffinity_node_host(cluster, node));
 *     mailaffinity_cluster_free(cluster);
 *
 * A program that runs for long opens a site in place of a cluster, by
 * mailaffinity_site_open(). Each mailaffinity_site_lookup() finds what is true then, and gives
 * the cluster that its answer is from.
 *
 * These rules hold for every function.
 *
 * Errors. A mailaffinity_ function that can fail returns MAILAFFINITY_OK or one of the
 * MAILAFFINITY_ERROR_ numbers. One that takes `detail` also puts words for the
 * administrator there: at most `detail_size` bytes, always ended by a NUL, cut at a whole
 * UTF-8 character, and empty on success unless the function says otherwise. `detail` NULL
 * or `detail_size` 0 asks for none.
 * Output parameters (..._out) must not be NULL, and are written on success only.
 *
 * Ownership. The caller frees clusters and builders, and closes sites, once, by their own
 * _free or _close function, which takes NULL too. All else that is returned is borrowed: a
 * string of a cluster is valid until that cluster is freed, whatever becomes of the site that
 * gave it. Arguments are read during the call and never kept.
 *
 * Strings. A username is bytes with a length: NULs and bytes above 127 are part of it, and
 * (NULL, 0) is the empty one; NULL with another length is MAILAFFINITY_ERROR_NULL. All
 * other strings end in NUL; tags, names, addresses and mail servers are UTF-8. A string
 * must not be NULL unless its function says what NULL stands for.
 *
 * Threads. A cluster never changes: any number of threads may use it at once, and none
 * once it is freed. So may they a site, until it is closed; a process that was forked while
 * other threads looked up needs its own. A builder belongs to one thread at a time. The
 * library keeps no state outside of these three, and leaves signals, locale and environment
 * alone. A bug in it is reported on stderr and by MAILAFFINITY_ERROR_PANIC; running out of
 * memory alone ends the process.
 *
 * ABI. Functions, constants and numbers are added, never changed, removed or reused. Should
 * that have to happen after all, MAILAFFINITY_ABI_VERSION changes, and with it the SONAME
 * (libmailaffinity.so.N), so that both versions can be installed at once.
 */

#ifndef MAILAFFINITY_H
#define MAILAFFINITY_H

/* Made by cbindgen from src/capi/: change it there. */

#include <stddef.h>
#include <stdint.h>

#define MAILAFFINITY_VERSION                 "0.1.0" /**< That of this header. */
#define MAILAFFINITY_ABI_VERSION             0       /**< That of this header and its SONAME. */

#define MAILAFFINITY_OK                      0       /**< All went well. */
#define MAILAFFINITY_ERROR_NULL              1       /**< A pointer that must not be NULL is. */
#define MAILAFFINITY_ERROR_INVALID_ARGUMENT  2       /**< An argument has no meaning. */
#define MAILAFFINITY_ERROR_USERNAME_HASH     3       /**< The username hash format is unknown. */
#define MAILAFFINITY_ERROR_MAIL_SERVERS      4       /**< Mail servers unreadable or unknown. */
#define MAILAFFINITY_ERROR_CONFIG            5       /**< The configuration cannot be used. */
#define MAILAFFINITY_ERROR_NODE_STATE        6       /**< The node state cannot be read. */
#define MAILAFFINITY_ERROR_CLUSTER           7       /**< No nodes, or too many vhosts. */
#define MAILAFFINITY_ERROR_NO_NODE           8       /**< No node with the tag is up. */
#define MAILAFFINITY_ERROR_PANIC             9       /**< The library has a bug. */

#define MAILAFFINITY_RING                    0       /**< director_consistent_hashing = yes */
#define MAILAFFINITY_MODULO                  1       /**< director_consistent_hashing = no */

/** A cluster in the making, node by node. */
typedef struct mailaffinity_builder mailaffinity_builder;

/**
 * Nodes, a strategy and a username hash: all that says which node a user belongs to.
 * It never changes.
 */
typedef struct mailaffinity_cluster mailaffinity_cluster;

/**
 * A configuration, the node state and the access map or published answers that it names,
 * followed while they change.
 */
typedef struct mailaffinity_site mailaffinity_site;

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Reads a configuration, and the node state it names, and makes a cluster of what
 * they say now; later changes of the files do not change it.
 *
 * Where one of them is broken, its last good copy takes its place, if the commands have
 * kept one. Then `detail` says so on success.
 *
 * `config_path` NULL stands for "/etc/mailaffinity.toml". On success the cluster is in
 * `*cluster_out`; free it with `mailaffinity_cluster_free`. Its nodes are in the order
 * of the configuration. The access map plays no part.
 */
int mailaffinity_cluster_load(const char *config_path,
                              mailaffinity_cluster **cluster_out,
                              char *detail,
                              size_t detail_size);

/**
 * Makes a cluster of a director_mail_servers string, such as
 * "10.0.0.1-10.0.0.3 imap.example.org@east": all nodes up, with 100 vhosts each.
 *
 * Names are resolved through the system, which can block; one node comes of each
 * address. `strategy` is `MAILAFFINITY_RING` or `MAILAFFINITY_MODULO`; `username_hash`
 * a director_username_hash, NULL for "%Lu". On success the cluster is in
 * `*cluster_out`; free it with `mailaffinity_cluster_free`.
 */
int mailaffinity_cluster_from_mail_servers(const char *mail_servers,
                                           int strategy,
                                           const char *username_hash,
                                           mailaffinity_cluster **cluster_out,
                                           char *detail,
                                           size_t detail_size);

/** Frees a cluster and all strings borrowed from it. NULL is allowed. */
void mailaffinity_cluster_free(mailaffinity_cluster *cluster);

/**
 * Begins a cluster without nodes.
 *
 * `strategy` is `MAILAFFINITY_RING` or `MAILAFFINITY_MODULO`; `username_hash` a
 * director_username_hash, NULL for "%Lu". On success the builder is in
 * `*builder_out`; free it with `mailaffinity_builder_free`.
 */
int mailaffinity_builder_new(int strategy,
                             const char *username_hash,
                             mailaffinity_builder **builder_out,
                             char *detail,
                             size_t detail_size);

/**
 * Adds a node. Nodes are numbered from 0 in the order in which they are added, which
 * makes no difference to the mapping.
 *
 * `address` is the one under which the Director knows the node, in any spelling that
 * Dovecot takes. `name` NULL stands for the address, `tag` NULL for "", no tag.
 * `vhost_count` is the node's share of the users, relative to the other nodes; the
 * Director's default is 100, and 0 takes none. `state` is "up" or "down", NULL for "up";
 * a node that is down takes none either.
 */
int mailaffinity_builder_add_node(mailaffinity_builder *builder,
                                  const char *name,
                                  const char *address,
                                  uint32_t vhost_count,
                                  const char *tag,
                                  const char *state,
                                  char *detail,
                                  size_t detail_size);

/**
 * Makes a cluster of the nodes added so far.
 *
 * The builder stays as it is: it can take further nodes, build again, and be freed
 * before or after the cluster. On success the cluster is in `*cluster_out`; free it
 * with `mailaffinity_cluster_free`.
 */
int mailaffinity_builder_build(const mailaffinity_builder *builder,
                               mailaffinity_cluster **cluster_out,
                               char *detail,
                               size_t detail_size);

/** Frees a builder, but no cluster built with it. NULL is allowed. */
void mailaffinity_builder_free(mailaffinity_builder *builder);

/**
 * Finds the node of a user among those with the tag that are up. In a cluster that was
 * loaded from a configuration, it is the node of the name that authentication leaves, and
 * a name of more than 1,023 bytes is `MAILAFFINITY_ERROR_INVALID_ARGUMENT`.
 *
 * `tag` NULL stands for the configuration's default tag, which is "", no tag, in a
 * cluster that was not loaded from a configuration. On success the number of the node
 * is in `*node_out`; `MAILAFFINITY_ERROR_NO_NODE` if there is none.
 */
int mailaffinity_lookup(const mailaffinity_cluster *cluster,
                        const char *user,
                        size_t user_len,
                        const char *tag,
                        size_t *node_out);

/** As `mailaffinity_lookup`, for a hash in place of a name. */
int mailaffinity_lookup_hash(const mailaffinity_cluster *cluster,
                             uint32_t hash,
                             const char *tag,
                             size_t *node_out);

/** The number of nodes, which are numbered from 0; 0 if `cluster` is NULL. */
size_t mailaffinity_node_count(const mailaffinity_cluster *cluster);

/** What the administrator calls a node. NULL if there is no such node. */
const char *mailaffinity_node_name(const mailaffinity_cluster *cluster, size_t node);

/**
 * The address under which the Director knows a node, as inet_ntop prints it. NULL if
 * there is no such node.
 */
const char *mailaffinity_node_address(const mailaffinity_cluster *cluster, size_t node);

/** The tag of a node, "" for none. NULL if there is no such node. */
const char *mailaffinity_node_tag(const mailaffinity_cluster *cluster, size_t node);

/**
 * The host that IMAP clients connect to, a bare name or address: the node's address,
 * unless a configuration says otherwise. NULL if there is no such node.
 */
const char *mailaffinity_node_host(const mailaffinity_cluster *cluster, size_t node);

/**
 * The sendmail queue group of a node's users. NULL if there is no such node, or no
 * configuration gives it one.
 */
const char *mailaffinity_node_queue_group(const mailaffinity_cluster *cluster,
                                          size_t node);

/**
 * The vhosts of a node, its share of the users relative to the other nodes; as many
 * while it is down. 0 if there is no such node.
 */
uint32_t mailaffinity_node_vhost_count(const mailaffinity_cluster *cluster, size_t node);

/** The state of a node, "up" or "down". NULL if there is no such node. */
const char *mailaffinity_node_state(const mailaffinity_cluster *cluster, size_t node);

/**
 * Opens a site, for a program that runs for long: each lookup finds what its files say
 * then, and what breaks does not count.
 *
 * `config_path` must be absolute; NULL stands for "/etc/mailaffinity.toml". On success the
 * site is in `*site_out`; close it with `mailaffinity_site_close`. A configuration that
 * cannot be used, and has no last good copy, is no error here: `detail` says so, and lookups
 * fail until it is mended.
 */
int mailaffinity_site_open(const char *config_path,
                           mailaffinity_site **site_out,
                           char *detail,
                           size_t detail_size);

/**
 * Finds the node that serves a user now: the one that the access map names, by its published
 * answers if there are any, unless it is down; else the one that the mapping gives among those
 * that are up and have the configuration's default tag. Users who move between nodes that live
 * have the old one until the moment that the node state names.
 *
 * On success, `*cluster_out` is a cluster of what is in force, which the caller frees with
 * `mailaffinity_cluster_free`, at any time, and `*node_out` the number of the node there.
 * `detail` has what the administrator should know all the same, at most once a minute, and
 * is mostly empty: which file is broken and what is in force instead, or why the node is
 * not the one of the map. It names no user.
 *
 * Costs two `stat` calls while no file has changed, and three with published answers. An
 * access map that is not published is read each time, and waited for as the configuration
 * says while others rebuild it. What another thread is reading then is not waited for, once
 * anything good was read: what was in force before counts.
 */
int mailaffinity_site_lookup(const mailaffinity_site *site,
                             const char *user,
                             size_t user_len,
                             mailaffinity_cluster **cluster_out,
                             size_t *node_out,
                             char *detail,
                             size_t detail_size);

/**
 * The cluster that is in force at a site now, as `mailaffinity_cluster_load` has it, for all
 * that can be asked of one: its nodes, and the mapping's own answers, with any tag.
 *
 * On success it is in `*cluster_out`; the caller frees it with `mailaffinity_cluster_free`, at
 * any time. `detail` and the cost are those of `mailaffinity_site_lookup`, without a map.
 */
int mailaffinity_site_cluster(const mailaffinity_site *site,
                              mailaffinity_cluster **cluster_out,
                              char *detail,
                              size_t detail_size);

/** Closes a site, but frees no cluster that it gave. NULL is allowed. */
void mailaffinity_site_close(mailaffinity_site *site);

/**
 * The 32-bit hash of a user, never 0, as the Director computes it.
 *
 * `format` is a director_username_hash such as "%Ln"; NULL stands for "%Lu". On
 * success the hash is in `*hash_out`.
 */
int mailaffinity_username_hash(const char *format,
                               const char *user,
                               size_t user_len,
                               uint32_t *hash_out,
                               char *detail,
                               size_t detail_size);

/**
 * What an error number means, such as "invalid configuration"; also for numbers that
 * this library does not know. Never NULL, and valid as long as the library is loaded.
 * The `detail` of a call says more.
 */
const char *mailaffinity_strerror(int error);

/**
 * The ABI of the library that is in use. A program can compare it with
 * `MAILAFFINITY_ABI_VERSION`, that of the header it was built with.
 */
uint32_t mailaffinity_abi_version(void);

/**
 * The release of the library that is in use, such as "0.1.0"; `MAILAFFINITY_VERSION` is
 * that of the header. Never NULL, and valid as long as the library is loaded.
 */
const char *mailaffinity_version(void);

/**
 * The vnode of a user, from 0 to `vnodes` - 1, without consistent hashing: the
 * user's hash modulo the number of vnodes. -1 if `user` is NULL or `vnodes` < 1.
 *
 * This and `hash_user_group_ring` are the two functions of hash_user_group.c in
 * INFN-16-11/CCR. They hash the name as it stands, up to its NUL, and know no hosts;
 * `mailaffinity_lookup` is what agrees with a Director.
 */
int hash_user_group_modulo(const char *user, int vnodes);

/**
 * The vnode of a user, from 0 to `vnodes` - 1, by consistent hashing: the one that
 * follows the user's hash on a ring of vnodes. -1 if `user` is NULL or `vnodes` < 1.
 *
 * A call computes the whole ring, one MD5 for each vnode.
 */
int hash_user_group_ring(const char *user, int vnodes);

#ifdef __cplusplus
}
#endif

#endif  /* MAILAFFINITY_H */
