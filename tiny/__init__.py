"""How the model that ships is made: a generated world, documents of it, training, and the examination."""
