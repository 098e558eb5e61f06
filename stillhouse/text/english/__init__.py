"""All that knows English; another language is another folder."""
