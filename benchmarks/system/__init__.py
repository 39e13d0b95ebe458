"""Whole workers on a real RabbitMQ, beside Celery in the same run."""
