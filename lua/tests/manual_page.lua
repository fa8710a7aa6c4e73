-- The manual page has all functions, and its example prints what it shows.

local t = require "helpers"
local mailaffinity = require "mailaffinity"

local page = assert(io.open("doc/man/lua-mailaffinity.3")):read("a")
local documented, functions = {}, {}
for name in page:gmatch("\n%.It Li ([_%a]+)[(\n]") do documented[name] = true end
for name in pairs(mailaffinity) do functions[name] = true end
t.is(documented, functions, "all that there is")

local blocks = {}
for block in page:gmatch("\n%.Bd %-literal %-offset indent\n(.-)%.Ed\n") do
  blocks[#blocks + 1] = block:gsub("\\e", "\\")
end
local program, printed = table.unpack(blocks)
local site = mailaffinity.open(t.configure())
t.mark_down("node2")

local lines = {}
local environment = setmetatable({
  require = function() return site end,
  print = function(...)
    local fields = table.pack(...)
    for i = 1, fields.n do fields[i] = tostring(fields[i]) end
    lines[#lines + 1] = table.concat(fields, "\t") .. "\n"
  end,
}, { __index = _G })
assert(load(program, "=example", "t", environment))()
t.is(table.concat(lines), printed, "the example")
t.done()
