divert(-1)dnl
dnl FEATURE(`mailaffinity') in place of FEATURE(`queuegroup'): the queue group of a
dnl recipient, from the QGRP: entries of the access map. To be installed in
dnl sendmail's cf/feature/, which is /usr/share/sendmail/cf/feature/ on Debian.
dnl
dnl FEATURE(`queuegroup') knows full addresses and domains only, while sendmail asks
dnl for a local recipient by the bare user name. This feature finds, for
dnl user+detail@host.example.org, the first of
dnl
dnl	QGRP:user+detail@host.example.org
dnl	QGRP:user+*@host.example.org
dnl	QGRP:user@host.example.org
dnl	QGRP:user+detail@
dnl	QGRP:user+*@
dnl	QGRP:user@
dnl	QGRP:host.example.org
dnl	QGRP:example.org
dnl	QGRP:org
dnl
dnl and for a local recipient, user+detail, the first of the three that end in @.
dnl
dnl The three that end in @ are for the site's own domains: those in class w, as in
dnl local-host-names, and those in class {mailaffinity}. Recipients elsewhere are not
dnl looked up by them: anna@elsewhere.example is nobody of ours. Class {mailaffinity} is
dnl for domains of users that are not in class w, such as those that the mailertable
dnl gives to LMTP. To fill it, in the .mc file, by names or from a file:
dnl
dnl	LOCAL_CONFIG
dnl	C{mailaffinity}example.org example.net
dnl	F{mailaffinity}-o /etc/mail/user-domains
dnl
dnl The argument, if there is one, is the queue group of all other recipients:
dnl FEATURE(`mailaffinity', `group'). Without it they have their mailer's queue group,
dnl or the default one, mqueue.
dnl
dnl With FEATURE(`queuegroup') in the same file, sendmail warns at every start that the
dnl rule set queuegroup has multiple definitions. m4 cannot tell.

divert(0)dnl
VERSIONID(`mailaffinity.m4')
divert(-1)
ifdef(`_ACCESS_TABLE_', `',
	`errprint(`*** ERROR: FEATURE(`mailaffinity') requires FEATURE(`access_db') before it
')')

LOCAL_RULESETS
Squeuegroup
R< $* >			$1			<user@domain>
R$+ @ $+ .		$1 @ $2			user@domain.
R$+ @			$1			user@
R$+			$: $1 @
R$+ @ $+ @		$: <$2> <F:$1@$2> <U:$1@> <D:$2>
R<$=w> <F:$+		$: <F:$2
R<$={mailaffinity}> <F:$+	$: <F:$2
R<$+> <F:$+> <U:$+> <D:$+>	$: <F:$2> <D:$4>
R$+ @			$: <U:$1@>
R$+			$: $>SearchList <! qgrp> $| $1 <>
dnl a map that does not answer is as one without an entry
R<<TMPF>>		$: <?>
ifelse(len(X`'_ARG_), `1',
`R<?>			$@',
`R<?>			$# _ARG_')
R<$+>			$# $1
