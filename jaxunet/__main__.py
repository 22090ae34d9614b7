"""`python -m jaxunet MODE ...` is `jaxunet MODE ...`."""

from jaxunet.command_line import jaxunet_command

jaxunet_command()
