"""From the supervisor to a child: the fork server, who belongs to whom, and the pipes between them."""
