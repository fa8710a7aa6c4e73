--TEST--
The stub file says what the module has
--FILE--
<?php
require 'helpers.inc';

$file = dirname(__DIR__) . '/mailaffinity.stub.php';
run([PHP_BINARY, '-n', '-l', $file], check: true);
$stub = file_get_contents($file);
// A namespace of its own keeps the stub apart from the module.
eval('namespace Stub;' . substr($stub, strlen('<?php')));

function signature(ReflectionFunction $function): string
{
    $parameters = array_map(function (ReflectionParameter $parameter) {
        $default = $parameter->isDefaultValueAvailable() ? ' = ' . var_export($parameter->getDefaultValue(), true) : '';
        $by = ($parameter->isPassedByReference() ? '&' : '') . ($parameter->isVariadic() ? '...' : '');
        return "{$parameter->getType()} $by\${$parameter->getName()}$default";
    }, $function->getParameters());
    return "{$function->getShortName()}(" . implode(', ', $parameters) . "): {$function->getReturnType()}";
}

$module = new ReflectionExtension('mailaffinity');
$in_module = array_map(signature(...), array_values($module->getFunctions()));
$in_stub = [];
foreach (get_defined_functions()['user'] as $name) {
    if (str_starts_with($name, 'stub\\')) {
        $function = new ReflectionFunction($name);
        $in_stub[] = signature($function);
        check(str_contains($function->getDocComment(), '@return'), "$name is not documented");
        $throws = str_contains($function->getDocComment(), '@throws MailaffinityException');
        check($throws === !str_ends_with($name, 'map_user_via_sendmail_access'), "$name throws or not");
        try {
            $name(...array_fill(0, $function->getNumberOfRequiredParameters(), ''));
            echo "FAILED: $name returns\n";
        } catch (Error $e) {
        }
    }
}
check($in_module === $in_stub, 'the functions differ: ' . print_r($in_stub, true));
print_r($in_module);

$class = new ReflectionClass('Stub\MailaffinityException');
check(array_keys($module->getClasses()) === [$class->getShortName()], 'the classes differ');
check(get_parent_class('MailaffinityException') === $class->getParentClass()->getName(), 'the parents differ');

preg_match_all('/^ \* @ini (\S+) = "(.*?)":/m', $stub, $match);
[$out] = run_php('echo json_encode(array_map(fn ($ini) => $ini["global_value"], ini_get_all("mailaffinity")));');
check(json_decode($out, true) === array_combine($match[1], $match[2]), "the directives differ: $out");
check($module->getVersion() === preg_replace('/.*^version = "(.*?)".*/ms', '$1', file_get_contents(dirname(__DIR__, 2) . '/Cargo.toml')), 'the versions differ');
?>
--EXPECT--
Array
(
    [0] => map_user_via_sendmail_access(mixed $username): string
    [1] => mailaffinity_node(string $username, ?string $tag = NULL): ?array
    [2] => mailaffinity_username_hash(string $username): int
    [3] => mailaffinity_nodes(): array
)
