-- What the functions return, beside the command.

local t = require "helpers"
local mailaffinity = require "mailaffinity"

local config = t.configure()
t.mark_down("node2")
local site = mailaffinity.open(config)

t.is(
  table.pack(site.node("u1")),
  table.pack({
    name = "node1",
    address = "10.0.0.1",
    host = "node1.example.org",
    queue_group = "node1group",
    tag = "",
    vhost_count = 100,
    state = "up",
  }, nil),
  "a node, and no message"
)
local nodes = site.nodes()
local names = { nodes[1].name, nodes[2].name, nodes[3].name, #nodes }
t.is(names, { "node1", "node2", "node3", 3 }, "in the order of the file")
local mark = { nodes[2].state, nodes[2].since, nodes[2].reason }
t.is(mark, { "down", "2026-11-23T20:45:00Z", "new disks" }, "why one is down")
t.is(site.username_hash("user1"), 0x24c9e15e, "as md5sum has it")
t.is(math.type(site.username_hash("user1")), "integer", "it is an integer")

local users = {}
for i = 1, 2000 do users[i] = ({ "user%d", "User%d@example.org", "%d", "ü%d" })[i % 4 + 1]:format(i) end
t.is(site.home("u7").name, "node2", "where a user of a node that is down goes back to")
t.is(site.home("u1").name, "node1", "and others are")
t.is(t.differences(site, config, users), {}, "as the command says")

-- Tags.
local tagged = t.replace("tagged.toml", ([==[
tag = "near"
node_state = "%s"
[[node]]
name = "a"
address = "10.0.0.1"
tag = "near"
[[node]]
name = "b"
address = "10.0.0.2"
[[node]]
name = "c"
address = "2001:db8::1"
tag = "far"
]==]):format(t.path("nodes.toml")))
site = mailaffinity.open(tagged)
local function name_of(...)
  local node = site.node(...)
  return node and node.name
end
t.is(name_of("user1"), "a", "the tag of the configuration")
t.is(name_of("user1", nil), "a", "nil is none given")
t.is(name_of("user1", ""), "b", "and the empty one is none")
t.is(name_of("user1", "far"), "c", "another")
local far = site.node("user1", "far")
t.is({ far.address, far.host }, { "2001:db8::1", "2001:db8::1" }, "IPv6")
t.is(far.queue_group, nil, "what the configuration does not have is nil")
local nobody = table.pack(nil, 'no node with the tag "no\u{fffd}" is up')
t.is(table.pack(site.node("user1", "no\xff")), nobody, "no such tag")

t.mark_down("node1", "node2", "node3")
nobody = table.pack(nil, "no node without a tag is up")
t.is(table.pack(mailaffinity.open(config).node("user1")), nobody, "nobody is up")

-- The usual configuration, by three ways.
local paths = {}
for i, usual in ipairs { mailaffinity, mailaffinity.open(), mailaffinity.open(nil) } do
  local found, message = usual.nodes()
  paths[i] = found and "found" or message:match("^[^:]*")
end
t.is(paths, { paths[1], paths[1], paths[1] }, "each is the same")
t.ok(paths[1] == "found" or paths[1] == "/etc/mailaffinity.toml", "its path")
t.like(mailaffinity._VERSION, "^mailaffinity %d+%.%d+%.%d+$", "the release")

-- The configuration says what is hashed, and of which name.
site = mailaffinity.open(t.configure('auth_username_format = "%Ln"\nauth_master_user_separator = "*"'))
t.is(site.username_hash("Anna@example.org*admin"), site.username_hash("anna"), "the name that authentication leaves")
t.done()
