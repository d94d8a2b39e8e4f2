"""How nets and gradients are spread over devices; nothing here knows what is being minimised."""
