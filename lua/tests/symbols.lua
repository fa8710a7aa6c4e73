-- Of the C library nothing is in the module: no symbols, no SONAME; and Lua is the program's.

local t = require "helpers"

local module = assert(package.searchpath("mailaffinity", package.cpath))
local symbols = {}
for name in t.run("nm -D --defined-only " .. module):gmatch(" %a (%S+)\n") do symbols[#symbols + 1] = name end
t.is(symbols, { "luaopen_mailaffinity" }, "what it exports")
local dynamic = t.run("readelf -d " .. module)
t.like(dynamic, "%(NEEDED%)", "the dynamic section can be read")
for _, word in ipairs { "(SONAME)", "[liblua", "[libmailaffinity" } do
  t.is(dynamic:find(word, 1, true), nil, word .. " is not there")
end
t.done()
