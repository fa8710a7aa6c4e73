// The header in C++17: linkage, and handles in smart pointers.

#include <mailaffinity.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace {

struct Free {
    void operator()(mailaffinity_cluster *cluster) const { mailaffinity_cluster_free(cluster); }
    void operator()(mailaffinity_builder *builder) const { mailaffinity_builder_free(builder); }
    void operator()(mailaffinity_site *site) const { mailaffinity_site_close(site); }
};

std::string address_of(const mailaffinity_cluster &cluster, std::string_view user)
{
    std::size_t node;
    if (mailaffinity_lookup(&cluster, user.data(), user.size(), nullptr, &node) != MAILAFFINITY_OK)
        return {};
    return mailaffinity_node_address(&cluster, node);
}

} // namespace

int main()
{
    char detail[100];
    mailaffinity_builder *new_builder;
    if (mailaffinity_builder_new(MAILAFFINITY_RING, nullptr, &new_builder, detail, sizeof detail) != MAILAFFINITY_OK)
        return 1;
    const std::unique_ptr<mailaffinity_builder, Free> builder{new_builder};

    for (const char *address : {"10.0.0.1", "10.0.0.2", "10.0.0.3"})
        if (mailaffinity_builder_add_node(builder.get(), nullptr, address, 100, nullptr, "up", detail, sizeof detail)
            != MAILAFFINITY_OK)
            return 2;

    mailaffinity_cluster *new_cluster;
    if (mailaffinity_builder_build(builder.get(), &new_cluster, detail, sizeof detail) != MAILAFFINITY_OK)
        return 3;
    const std::unique_ptr<mailaffinity_cluster, Free> cluster{new_cluster};

    // tests/director/ring-3.tsv
    if (address_of(*cluster, "yves42") != "10.0.0.3" || address_of(*cluster, "ingrid42") != "10.0.0.2")
        return 4;

    mailaffinity_site *new_site;
    if (mailaffinity_site_open("/nonexistent/mailaffinity.toml", &new_site, detail, sizeof detail) != MAILAFFINITY_OK)
        return 5;
    const std::unique_ptr<mailaffinity_site, Free> site{new_site};
    if (mailaffinity_site_cluster(site.get(), &new_cluster, nullptr, 0) != MAILAFFINITY_ERROR_CONFIG)
        return 6;
    return mailaffinity_abi_version() == MAILAFFINITY_ABI_VERSION ? 0 : 7;
}
