-- A million calls need no more memory than a few.

local t = require "helpers"
local mailaffinity = require "mailaffinity"

local config = t.configure()
local site = mailaffinity.open(config)

local function resident()
  collectgarbage()
  collectgarbage()
  local statm <close> = assert(io.open("/proc/self/statm"))
  return tonumber(statm:read("l"):match(" (%d+)")) * 4096
end

--- Users are mapped, in all ways.
local function calls(times)
  for i = 1, times do
    site.node("user" .. i)
    if i % 100 == 0 then
      site.node("user" .. i, "nowhere" .. i)
      site.node(i, {})
      site.home("user" .. i)
      site.nodes()
      site.username_hash("user" .. i)
      mailaffinity.open("nowhere" .. i)
      mailaffinity.open(config).node("user" .. i)
    end
  end
end

--- All files change, and break.
local function changes(times)
  for i = 1, times do
    t.mark_down(table.unpack({ "node1", "node2", "node3" }, 1, i % 4))
    calls(10)
    t.replace("nodes.toml", ("broken = %d\n"):format(i))
    t.replace("mailaffinity.toml", ("broken = %d\n"):format(i))
    calls(10)
    t.configure()
  end
  t.mark_down("node1")
end

changes(500)
calls(20000)
local before = { collectgarbage("count") * 1024, resident() }
calls(1000000)
changes(500)
local grown = { resident = resident() - before[2], lua = collectgarbage("count") * 1024 - before[1] }
for what, bytes in pairs(grown) do
  t.ok(bytes < 1 << 20, ("%s: grew by %.0f bytes"):format(what, bytes))
end
t.done()
