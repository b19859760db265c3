"""A family of methods, by name: what `register_...` adds to, and what arguments and messages list."""

from __future__ import annotations

from typing import TypeVar

Member = TypeVar("Member")


class Registry(dict[str, Member]):
    """The members of a family by name, in the order of registration.

    It is asked anew each time: a member that is registered at run time shows in error messages and in the choices of
    a command line (`field(metadata={"choices": registry})`). `del registry[name]` takes one out.

    Args:
        kind (`str`): what a member is called in messages, such as `"training loss"`.
        register (`str`): the public function that adds one, for messages.
    """

    def __init__(self, kind: str, register: str):
        super().__init__()
        self.kind = kind
        self.register = register

    def add(self, name: str, member: Member) -> None:
        """Adds a member.

        Raises:
            ValueError: if the name is empty, no string, or taken.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"The name of a {self.kind} has to be a string with letters in it; got {name!r}.")
        if name in self:
            raise ValueError(
                f"There is a {self.kind} {name!r} already: choose another name, or take that one out first "
                "(`del registry[name]`)."
            )
        self[name] = member

    def find(self, name: str, argument: str | None = None) -> Member:
        """The member of this name.

        Args:
            argument (`str`, *optional*): whose value the name is, for the message, such as `"clear_loss"`.

        Raises:
            ValueError: if there is none; the message lists those that there are.
        """
        if not isinstance(name, str) or name not in self:
            where = f"`{argument}` has to be the name of a {self.kind}" if argument else f"There is no {self.kind}"
            got = f"; got {name!r}" if argument else f" {name!r}"
            raise ValueError(f"{where}{got}. There are: {', '.join(map(repr, self))}. `{self.register}` adds one.")
        return self[name]
