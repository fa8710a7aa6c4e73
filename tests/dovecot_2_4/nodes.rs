//! Nodes that send users home, in mixed mode.

use support::machines::{Machine, Network};

/// The passdb that asks mailaffinity.
const SCRIPT: &str = r#"
local mailaffinity = require "mailaffinity"

function auth_passdb_lookup(request)
  local node, message = mailaffinity.node(request.user)
  if not node then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, message
  end
  return dovecot.auth.PASSDB_RESULT_OK, { proxy_maybe = "y", host = node.address }
end
"#;

/// node1 to node3.
pub(crate) fn start(network: &Network, password: &str) -> [Machine; 3] {
    network.replace("dovecot.lua", SCRIPT);
    [1, 2, 3].map(|number| {
        let node = network.start(&format!("node{number}"), number);
        authenticate(&node, password, true);
        node.start_dovecot("auth_failure_delay = 0\nlogin_trusted_networks = 10.24.0.0/24\n");
        node
    })
}

/// Who may log in to a node, and whether it sends users home; all stay here if not.
pub(crate) fn authenticate(node: &Machine, password: &str, sends_home: bool) {
    let site = format!(
        "passdb static {{\n  password = {password}\n  result_success = continue-ok\n}}\nuserdb static {{\n}}\n"
    );
    let mailaffinity = "passdb lua {
  skip = unauthenticated
  lua_file = /srv/cluster/dovecot.lua
  result_internalfail = return-fail
  fields {
    noauthenticate = yes
  }
}
";
    let text = site + if sends_home { mailaffinity } else { "" };
    node.write("/etc/dovecot/conf.d/10-auth.conf", &text);
}
