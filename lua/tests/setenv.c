/* os.setenv, which Lua lacks: require "setenv" gives a function of a name and a value, or nil. */
#include <stdlib.h>
#include <lauxlib.h>

static int set(lua_State *lua)
{
    const char *name = luaL_checkstring(lua, 1);

    if (lua_isnoneornil(lua, 2))
        unsetenv(name);
    else
        setenv(name, luaL_checkstring(lua, 2), 1);
    return 0;
}

int luaopen_setenv(lua_State *lua)
{
    lua_pushcfunction(lua, set);
    return 1;
}
