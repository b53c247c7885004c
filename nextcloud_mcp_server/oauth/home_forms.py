"""The HTML of home, with a place for each value; :mod:`.home_pages` fills it in."""

from __future__ import annotations

from typing import Final

WELCOME: Final = """
{elsewhere}
<p>This server connects AI assistants (MCP clients) to the Nextcloud at
<strong>{nextcloud}</strong>. Each person decides what a program may do there.</p>
<h2>Connect a program</h2>
<p>Add this address in your MCP client, and follow what it shows:</p>
<p><code>{address}</code></p>
<h2>See or end what is connected</h2>
<p>Sign in with your Nextcloud account. This server never sees your password.</p>
{form}
"""

ASKED: Final = """
{elsewhere}
<p><strong>{name}</strong> asks for more. It would like to:</p>
<ul>
{wanted}
</ul>
<p>Sign in to allow it: only the person can do so whose account at <strong>{nextcloud}</strong>
{name} uses. Nothing changes yet, because the next page asks you. This server never sees your
password.</p>
{form}
"""

#: Not a warning: a proxy in front of the server may have sent another name.
ELSEWHERE: Final = """
<p class="note">If your browser shows another address, open <a href="{url}/">{url}</a>: you can sign
in only there.</p>
"""

SIGN_IN: Final = """
<form method="post" action="{action}">
<input type="hidden" name="csrf" value="{csrf}">
{more}
<div class="actions">
<button class="button main">Sign in with Nextcloud</button>
</div>
</form>
"""

HOME: Final = """
{notice}
<h2>Account</h2>
<dl>
<dt>Nextcloud</dt><dd>{nextcloud}</dd>
<dt>User</dt><dd>{user}</dd>
<dt>Connected</dt><dd>{since}</dd>
<dt>MCP address</dt><dd><code>{address}</code></dd>
</dl>
<h2>Programs with access</h2>
{programs}
{ended}
<h2>Leave</h2>
<div class="actions">
{sign_out}
{disconnect}
</div>
"""

SIGN_OUT: Final = """
<form method="post" action="{action}">{csrf}<button class="button">Sign out</button></form>
"""

DISCONNECT: Final = """
<form method="post" action="{action}">{csrf}
<button class="button ends">Disconnect Nextcloud</button>
</form>
"""

PROGRAM: Final = """
<section aria-labelledby="name-{id}">
<h3 id="name-{id}">{name}</h3>
<dl>
<dt>Leads back to</dt><dd>{target}</dd>
<dt>Since</dt><dd>{since}</dd>
<dt>Last used</dt><dd>{used}</dd>
</dl>
<form method="post" action="{scopes}">{csrf}
<input type="hidden" name="grant" value="{id}">
<fieldset>
<legend>{name} may</legend>
{boxes}
<button class="button">Save</button>
</fieldset>
</form>
<form method="post" action="{revoke}">{csrf}
<input type="hidden" name="grant" value="{id}">
<button class="button ends" aria-describedby="name-{id}">Revoke access</button>
</form>
</section>
"""

BOX: Final = '<label><input type="checkbox" name="scope" value="{scope}" {checked}>{label}</label>'

MORE: Final = """
<p><strong>{name}</strong> (leads back to: {target}) would then also be allowed to:</p>
<ul>
{more}
</ul>
{less}
<p>Continue only if you want that now. Nextcloud itself knows no such limits: this server keeps to
what you choose here.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="grant" value="{id}">
{chosen}
{confirmed}
<div class="actions">
<button class="button main">{button}</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""

LESS: Final = """
<p>It would then no longer be allowed to:</p>
<ul>
{less}
</ul>
"""

WHO: Final = """
<p>Nextcloud calls this "Grant access". This server only asks who you are. For that Nextcloud
creates a new app password, and this server deletes it as soon as it knows who you are. Only if the
app password that connects your account has stopped working, the new one replaces it.</p>
"""

ALLOWED: Final = """
<div role="status">
<p>{name} may now:</p>
<ul>
{scopes}
</ul>
<p>Go back to {name}, and let it try again.</p>
</div>
"""

SAVED: Final = """
<div role="status">
<p>Saved. {name} may now:</p>
<ul>
{scopes}
</ul>
</div>
"""

REVOKED: Final = '<p role="status">{name} has no access any more.</p>'

CONFIRM_REVOKE: Final = """
<p>{name} loses its access at once. To use it again, you connect it again. Other programs and your
files stay.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="grant" value="{id}">
<input type="hidden" name="confirmed" value="yes">
<div class="actions">
<button class="button ends">Revoke access</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""

FOR_PROGRAMS: Final = """
<p>Add it in your MCP client, such as Claude or Visual Studio Code, and follow what it shows:</p>
<p><code>{address}</code></p>
<p>In a browser, the first page shows what is connected, and changes or ends it.</p>
<p><a class="button main" href="/">First page of this server</a></p>
"""

NO_GRANT: Final = """
<p class="problem">You are signed in here as <strong>{user}</strong>, and no such program has access
to your Nextcloud: its access was ended, or another person has granted it.</p>
<p>If the link is for another account, sign out here, then sign in with that one.</p>
<div class="actions">
<a class="button" href="/">Your programs</a>
<form method="post" action="{action}">{csrf}
{fields}
<button class="button">Sign out</button>
</form>
</div>
"""

CONFIRM: Final = """
<p>Every program of {user} loses its access at once. The app password of this server is deleted in
Nextcloud and here. Your files and everything else in Nextcloud stay.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="confirmed" value="yes">
<div class="actions">
<button class="button ends">Disconnect</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""
